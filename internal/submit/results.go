package submit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/private"
)

// Counts has the number of requests by outcome.
type Counts struct {
	Completed   int `json:"completed"`
	Failed      int `json:"failed"`
	NotExecuted int `json:"notExecuted"`
	InDoubt     int `json:"inDoubt"` // the part of Failed that may have been carried out
	Unknown     int `json:"unknown"` // the outcome can no longer be determined
}

func (c *Counts) add(o *Counts) {
	c.Completed += o.Completed
	c.Failed += o.Failed
	c.NotExecuted += o.NotExecuted
	c.InDoubt += o.InDoubt
	c.Unknown += o.Unknown
}

// Total returns the number of requests.
func (c *Counts) Total() int { return c.Completed + c.Failed + c.NotExecuted + c.Unknown }

// Group is a group of similar failures.
type Group struct {
	Status  string `json:"status"` // FAILED, IN_DOUBT, NOT_EXECUTED or UNKNOWN
	Code    int    `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Count   int    `json:"count"`
	Line    int    `json:"line"` // the line of the first one in the input
}

// unknownStatus is the status of a request whose outcome can no longer be determined.
const unknownStatus = "UNKNOWN"

// outcome is one line of the results.
type outcome struct {
	Line     int             `json:"line"`
	ID       string          `json:"id,omitempty"`
	Method   string          `json:"method"`
	Path     string          `json:"path"`
	Ticket   string          `json:"ticket,omitempty"`
	Status   string          `json:"status"`
	InDoubt  bool            `json:"inDoubt,omitempty"`
	Code     int             `json:"httpStatusCode,omitempty"`
	Message  string          `json:"httpStatusLine,omitempty"`
	Body     json.RawMessage `json:"httpBody,omitempty"`
	Encoding string          `json:"httpBodyEncoding,omitempty"`
	Reason   string          `json:"reason,omitempty"`
}

// newOutcome joins a request with its response. If r is nil, the outcome is unknown.
func newOutcome(line int, request []byte, ticket string, r *client.Response, why string) (*outcome, error) {
	var q struct {
		ID     string `json:"id"`
		Method string `json:"method"`
		Path   string `json:"path"`
	}
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, err
	}
	o := &outcome{Line: line, ID: q.ID, Method: q.Method, Path: q.Path, Ticket: ticket, Status: unknownStatus, Reason: why}
	if r == nil {
		return o, nil
	}
	o.Status, o.Code, o.Message, o.Body, o.Encoding, o.Reason = string(r.Status), r.StatusCode, r.StatusLine, r.Body, r.BodyEncoding, r.Reason
	o.InDoubt = r.InDoubt && (q.Method == http.MethodPost || q.Method == http.MethodPatch) // others can be repeated
	return o, nil
}

// shown returns the status to show.
func (o *outcome) shown() string {
	if o.InDoubt {
		return string(client.InDoubt)
	}
	return o.Status
}

// reason returns why the request did not succeed.
func (o *outcome) reason() string {
	if o.Reason != "" {
		return o.Reason
	}
	return o.Message
}

// tally counts outcomes and groups failures.
type tally struct {
	counts Counts
	groups []Group
	index  map[Group]int
}

// maxGroups is the maximum number of groups of failures.
const maxGroups = 100

func (t *tally) add(o *outcome) {
	switch o.Status {
	case string(client.Succeeded):
		t.counts.Completed++
		return
	case string(client.NotExecuted):
		t.counts.NotExecuted++
	case unknownStatus:
		t.counts.Unknown++
	default:
		t.counts.Failed++
		if o.InDoubt {
			t.counts.InDoubt++
		}
	}
	t.group(Group{Status: o.shown(), Code: o.Code, Message: cutTo(o.reason(), 200), Count: 1, Line: o.Line})
}

// group adds g to the group of similar failures.
func (t *tally) group(g Group) {
	if t.index == nil {
		t.index = map[Group]int{}
	}
	key := Group{Status: g.Status, Code: g.Code, Message: g.Message}
	i, known := t.index[key]
	if !known && len(t.groups) >= maxGroups {
		key.Message = "other messages"
		g.Message = key.Message
		i, known = t.index[key]
	}
	if !known {
		t.index[key] = len(t.groups)
		t.groups = append(t.groups, g)
		return
	}
	t.groups[i].Count += g.Count
}

func (t *tally) merge(c *Counts, groups []Group) {
	if c != nil {
		t.counts.add(c)
	}
	for _, g := range groups {
		t.group(g)
	}
}

func cutTo(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n]) + "…"
	}
	return text
}

// output is a file that grows chunk by chunk, or standard output.
type output struct {
	path string
	file *os.File // nil: standard output
	out  *bufio.Writer
	text *bufio.Writer // encodes text and writes to out; nil: not needed
	size int64         // the size after the last flush
}

// openOutput opens a file and truncates it to size. If begin is set, it creates the file and
// replaces an existing one.
func openOutput(path string, size int64, begin bool, stdout io.Writer) (*output, error) {
	if path == "-" {
		return &output{path: path, out: bufio.NewWriter(stdout)}, nil
	}
	flag := os.O_CREATE | os.O_RDWR
	if begin {
		if err := removeFile(path); err != nil {
			return nil, err
		}
		flag |= os.O_EXCL
	}
	f, err := private.Open(path, flag) // answers may hold secrets
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < size {
		err = fmt.Errorf("%s has lost results: it has %d of the %d bytes that were written; restore the file, or start over with --overwrite", path, info.Size(), size)
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &output{path: path, file: f, out: bufio.NewWriterSize(f, 64<<10), size: size}, nil
}

// removeFile removes a file or symbolic link, if it exists. It refuses anything else.
func removeFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0:
		return fmt.Errorf("%s %w: name another file for the results", path, private.ErrNotRegular)
	}
	return os.Remove(path)
}

// flush makes the written data durable and returns the file's size.
func (o *output) flush() (int64, error) {
	var err error
	if o.text != nil {
		err = o.text.Flush()
	}
	if err == nil {
		err = o.out.Flush()
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", o.path, err)
	}
	if o.file == nil {
		return 0, nil
	}
	if err := o.file.Sync(); err != nil {
		return 0, fmt.Errorf("write %s: %w", o.path, err)
	}
	size, err := o.file.Seek(0, io.SeekCurrent)
	o.size = size
	return size, err
}

func (o *output) Close() error {
	if o == nil || o.file == nil {
		return nil
	}
	return o.file.Close()
}

// resultColumns are added to the input's columns. If the input already has them, because corrected
// results are submitted again, they are replaced.
var resultColumns = []string{"result_status", "result_code", "result_message", "result_body"}

// resultWriter writes the outcomes of requests.
type resultWriter struct {
	*output
	json   *json.Encoder // nil: CSV
	csv    *csvWriter
	raw    bool
	kept   []int // indexes of the input's columns to write; nil: the input is not CSV
	record []string
}

// newResultWriter returns a writer of results to an output. columns are the names of the input's columns,
// if the input is CSV. A new CSV file gets a header.
func newResultWriter(o *output, h *Header, in *Input, columns []string) (*resultWriter, error) {
	w := &resultWriter{output: o, raw: h.Raw}
	if h.ResultsFormat == NDJSON {
		w.json = json.NewEncoder(o.out)
		w.json.SetEscapeHTML(false)
		return w, nil
	}
	d := in.dialect
	if in.Format != CSV {
		d = dialect{comma: ',', end: "\n"}
		columns = []string{"line", "id", "method", "path"}
	} else {
		w.kept = []int{}
		for i, name := range columns {
			if !slices.Contains(resultColumns, name) {
				w.kept = append(w.kept, i)
			}
		}
	}
	d.charset = d.charset.forOutput(true)
	var err error
	if w.csv, err = o.asCSV(d); err != nil || o.size > 0 {
		return w, err
	}
	return w, w.csv.write(append(w.input(columns), resultColumns...))
}

// input begins a record with the input's cells.
func (w *resultWriter) input(cells []string) []string {
	if w.kept == nil {
		return append(w.record[:0], cells...)
	}
	w.record = w.record[:0]
	for _, i := range w.kept {
		cell := ""
		if i < len(cells) {
			cell = cells[i]
		}
		w.record = append(w.record, cell)
	}
	return w.record
}

// write writes an outcome. columns are the cells of the input's row, if the input is CSV.
func (w *resultWriter) write(o *outcome, columns []string) error {
	if w.json != nil {
		return w.json.Encode(o)
	}
	if w.kept == nil {
		columns = []string{strconv.Itoa(o.Line), o.ID, o.Method, o.Path}
	}
	code := ""
	if o.Code != 0 {
		code = strconv.Itoa(o.Code)
	}
	body := string(o.Body)
	if strings.HasPrefix(body, `"`) && o.Encoding == "" {
		var text string
		if json.Unmarshal(o.Body, &text) == nil {
			body = text
		}
	}
	w.record = append(w.input(columns), o.shown(), code, w.harmless(o.reason()), w.harmless(body))
	return w.csv.write(w.record)
}

// harmless keeps spreadsheets from evaluating text from answers as a formula (OWASP, CSV Injection). It
// adds a leading apostrophe, which marks the cell as text.
func (w *resultWriter) harmless(text string) string {
	if w.raw {
		return text
	}
	switch begin := strings.TrimLeft(text, " \u00a0"); {
	case begin == "":
		return text
	case strings.ContainsRune("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20", firstRune(begin)):
		return "'" + text
	}
	return text
}

func firstRune(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

// asCSV returns a writer of CSV to the output. A new file gets a byte order mark and a line that names
// the delimiter, if the dialect has them.
func (o *output) asCSV(d dialect) (*csvWriter, error) {
	text, err := d.charset.writer(o.out, o.size == 0)
	if err != nil {
		return nil, err
	}
	o.text = bufio.NewWriter(text)
	if d.sepLine != "" && o.size == 0 {
		if _, err := o.text.WriteString(d.sepLine + d.end); err != nil {
			return nil, err
		}
	}
	return &csvWriter{out: o.text, comma: d.comma, end: d.end}, nil
}

// requestWriter writes the failed requests that can be sent again, in the input's format. If the
// input is a JSON array, it writes one request per line.
type requestWriter struct {
	*output
	csv  *csvWriter
	line bytes.Buffer
}

func newRequestWriter(o *output, in *Input, columns []string) (*requestWriter, error) {
	w := &requestWriter{output: o}
	if in.Format != CSV {
		return w, nil
	}
	d := in.dialect
	d.charset = d.charset.forOutput(false)
	var err error
	if w.csv, err = o.asCSV(d); err != nil || o.size > 0 {
		return w, err
	}
	return w, w.csv.write(columns)
}

func (w *requestWriter) write(request []byte, columns []string) error {
	if w.csv != nil {
		return w.csv.write(columns)
	}
	w.line.Reset()
	if err := json.Compact(&w.line, request); err != nil { // a request in an array may span several lines
		return err
	}
	w.line.WriteByte('\n')
	_, err := w.out.Write(w.line.Bytes())
	return err
}
