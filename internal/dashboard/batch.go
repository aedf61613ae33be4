package dashboard

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// timeline is a batch as the API tells it with all of its requests.
type timeline struct {
	Status, GroupID, RetryOf                     string
	TotalRequests, CompletedRequests             int
	CreatedAt, StartedAt, FinishedAt, WaitsUntil time.Time
	QuarantinedAt                                time.Time
	QuarantineReason                             string
	Paused, Parallel, StopOnFirstFailure         bool
	Requests                                     []progress
}

// progress is how far a request has come.
type progress struct {
	Index                                            int
	ID, Method, Path, Status, HTTPStatusLine, Reason string
	HTTPStatusCode, Attempts, Retries, Throttles     int
	StartedAt, ThrottledAt, EndedAt, NextAttemptAt   time.Time
	LastAttemptAt                                    time.Time // when the last attempt began; zero: unknown, or it is the first one
	InDoubt                                          bool
}

// inDoubt is the state of requests that are FAILED and in doubt, as the pages show them.
const inDoubt = "IN_DOUBT"

// Took is the time from the first attempt to the end of the last one.
func (p progress) Took() time.Duration {
	if p.StartedAt.IsZero() || p.EndedAt.IsZero() {
		return 0
	}
	return p.EndedAt.Sub(p.StartedAt)
}

// rows is how many requests a page lists.
const rows = 100

// batchView is a batch's page.
type batchView struct {
	timeline
	Store, Ticket                                       string
	Succeeded, Failed, InDoubt, NotExecuted, Unfinished int // Failed: without those in doubt
	QueuePaused                                         bool
	Percent                                             int
	Left                                                time.Duration // an estimate; 0: there is none
	Wait, Run                                           time.Duration
	Waterfall                                           waterfall
	Rows                                                []row
	Filter                                              struct{ Status, Code string }
	Codes                                               []int
	Matching                                            int
	First, Last                                         int // of the listed ones among those that match, from 1
	Previous, Next                                      string
	Link                                                string
}

// States are those that requests can be listed by.
func (batchView) States() []string {
	return []string{"COMPLETED", "FAILED", inDoubt, "NOT_EXECUTED", "PENDING", "RUNNING", "WAITING"}
}

func (v batchView) every() int {
	if v.Status == "COMPLETED" {
		return 0
	}
	return 1000
}

// row is a request with its bar.
type row struct {
	progress
	Bar bar
}

// batch shows one batch.
func (d *Dashboard) batch(w http.ResponseWriter, r *http.Request) error {
	store, ticket := r.PathValue("store"), r.PathValue("ticket")
	v := batchView{Store: store, Ticket: ticket, Link: r.URL.Path}
	if err := d.get(r, batchPath(store)+"/timeline", url.Values{"ticket": {ticket}}, &v.timeline); err != nil {
		return err
	}
	if v.Paused {
		var queue struct{ Paused bool }
		if err := d.get(r, batchPath(store)+"/queue", nil, &queue); err != nil {
			return err
		}
		v.QueuePaused = queue.Paused
	}
	now := time.Now()
	v.count(now)
	v.Waterfall = fall(&v.timeline, now)
	q := r.URL.Query()
	v.Filter.Status, v.Filter.Code = q.Get("status"), q.Get("code")
	var matching []progress
	for _, p := range v.Requests {
		if p.HTTPStatusCode != 0 && !slices.Contains(v.Codes, p.HTTPStatusCode) {
			v.Codes = append(v.Codes, p.HTTPStatusCode)
		}
		if (v.Filter.Status == "" || p.Status == v.Filter.Status) && (v.Filter.Code == "" || strconv.Itoa(p.HTTPStatusCode) == v.Filter.Code) {
			matching = append(matching, p)
		}
	}
	slices.Sort(v.Codes)
	v.Matching = len(matching)
	from, err := strconv.Atoi(q.Get("from"))
	if err != nil || from < 0 || from >= len(matching) {
		from = 0
	}
	v.First, v.Last = from+1, min(from+rows, len(matching))
	if from > 0 {
		v.Previous = v.page(r.URL.Path, max(from-rows, 0))
	}
	if v.Last < len(matching) {
		v.Next = v.page(r.URL.Path, v.Last)
	}
	for _, p := range matching[from:v.Last] {
		v.Rows = append(v.Rows, row{p, v.Waterfall.bar(&p)})
	}
	return d.show(w, r, http.StatusOK, "batch", "Batch "+ticket[:min(8, len(ticket))], v)
}

// page is the address of the page that begins at a place.
func (v *batchView) page(path string, from int) string {
	q := url.Values{"from": {strconv.Itoa(from)}}
	if v.Filter.Status != "" {
		q.Set("status", v.Filter.Status)
	}
	if v.Filter.Code != "" {
		q.Set("code", v.Filter.Code)
	}
	return path + "?" + q.Encode()
}

// count adds up the requests.
func (v *batchView) count(now time.Time) {
	for i := range v.Requests {
		if v.Requests[i].InDoubt {
			v.Requests[i].Status = inDoubt
		}
		switch v.Requests[i].Status {
		case "COMPLETED":
			v.Succeeded++
		case "FAILED":
			v.Failed++
		case inDoubt:
			v.InDoubt++
		case "NOT_EXECUTED":
			v.NotExecuted++
		default:
			v.Unfinished++
		}
	}
	ended := v.TotalRequests - v.Unfinished
	v.Percent = 100 * v.CompletedRequests / max(v.TotalRequests, 1)
	start := v.StartedAt
	if start.IsZero() {
		v.Wait = now.Sub(v.CreatedAt)
		return
	}
	v.Wait, v.Run = start.Sub(v.CreatedAt), now.Sub(start)
	if !v.FinishedAt.IsZero() {
		v.Run = v.FinishedAt.Sub(start)
	} else if ended > 0 && !v.Paused && v.QuarantinedAt.IsZero() {
		v.Left = v.Run / time.Duration(ended) * time.Duration(v.Unfinished)
	}
}

// response is one answer as the API tells it, its body exactly as it came.
type response struct {
	Index                               int
	ID, Status, HTTPStatusLine, Reason  string
	Method, Path, EscapedHTTPBody       string
	HTTPBodyEncoding                    string
	HTTPStatusCode, Attempts, Throttles int
	HTTPBodyBytes                       int // of a body of which this is the beginning
	DurationMs                          int64
	StartedAt                           time.Time
	Headers                             map[string]string
	InDoubt                             bool
}

// Shown is the state as the page shows it.
func (a *response) Shown() string {
	if a.InDoubt {
		return inDoubt
	}
	return a.Status
}

// created is a request as it was created.
type created struct {
	Index            int
	ID, Method, Path string
	Body             json.RawMessage
	BodyText         string // the beginning of a body that is longer
	BodyBytes        int    // how long that is
	Headers, Refs    map[string]string
	DependsOn        []string
	RunIf            string
}

// requestView is the page of one request.
type requestView struct {
	Store, Ticket string
	Index, Total  int
	Request       created
	RequestBody   text
	Answer        *response // nil: there is none yet
	AnswerBody    text
	Curl          string
}

// Previous and Next are the pages of the requests beside it; empty: there is none.
func (v requestView) Previous() string { return v.beside(v.Index - 1) }
func (v requestView) Next() string     { return v.beside(v.Index + 1) }

func (v requestView) beside(i int) string {
	if i < 0 || i >= v.Total {
		return ""
	}
	return storePage(v.Store) + "/batches/" + url.PathEscape(v.Ticket) + "/requests/" + strconv.Itoa(i)
}

func (v requestView) every() int {
	if v.Answer == nil {
		return 1000
	}
	return 0
}

// text is a body as it is shown.
type text struct {
	Kind  string // "JSON", "text", "binary", "none"
	Bytes int
	Text  string
	Cut   bool // there is more
}

// maxShown limits what is read and shown of a body, in bytes. All of it can be downloaded.
const maxShown = 64 << 10

// request shows one request and its answer.
func (d *Dashboard) request(w http.ResponseWriter, r *http.Request) error {
	store, ticket := r.PathValue("store"), r.PathValue("ticket")
	v := requestView{Store: store, Ticket: ticket}
	var err error
	if v.Index, err = strconv.Atoi(r.PathValue("i")); err != nil || v.Index < 0 {
		return d.nothing(w, r)
	}
	var got struct{ Requests []created }
	if err := d.get(r, batchPath(store)+"/requests", one(ticket, v.Index), &got); err != nil {
		return err
	}
	if len(got.Requests) != 1 {
		return &problem{http.StatusNotFound, "This batch has no request with that index."}
	}
	v.Request = got.Requests[0]
	v.RequestBody = v.Request.text()
	v.Curl = curl(&v.Request)
	if v.Answer, v.Total, err = d.response(r, v.Index); err != nil {
		return err
	}
	if v.Answer != nil {
		v.AnswerBody = show(v.Answer.body(), v.Answer.HTTPBodyBytes)
	}
	return d.show(w, r, http.StatusOK, "request", fmt.Sprintf("Request %d of batch %s", v.Index, ticket[:min(8, len(ticket))]), v)
}

// one asks for the request, or the response, at an index.
func one(ticket string, index int) url.Values {
	return url.Values{"ticket": {ticket}, "after": {strconv.Itoa(index - 1)}, "limit": {"1"}, "bodyBytes": {strconv.Itoa(maxShown)}}
}

// response reads the response at an index; nil: it has none yet.
func (d *Dashboard) response(r *http.Request, index int) (*response, int, error) {
	q := one(r.PathValue("ticket"), index)
	q.Set("details", "true")
	q.Set("escapedJson", "true")
	var got struct {
		TotalRequests int
		Responses     []response
	}
	if err := d.get(r, batchPath(r.PathValue("store")), q, &got); err != nil {
		return nil, 0, err
	}
	if len(got.Responses) == 0 || got.Responses[0].Index != index {
		return nil, got.TotalRequests, nil
	}
	return &got.Responses[0], got.TotalRequests, nil
}

// text is the request's body as it is shown.
func (c *created) text() text {
	if c.BodyBytes > 0 {
		return show([]byte(c.BodyText), c.BodyBytes)
	}
	return show(c.sent(), 0)
}

// body is the answer's body as it came, or its beginning.
func (a *response) body() []byte {
	if a.HTTPBodyEncoding == "base64" {
		if b, err := base64.StdEncoding.DecodeString(a.EscapedHTTPBody); err == nil {
			return b
		}
	}
	return []byte(a.EscapedHTTPBody)
}

// download sends the whole body of an answer, or of a request, to be kept as a file: never as a
// page. The API sends it in pieces.
func (d *Dashboard) download(of string) page {
	return func(w http.ResponseWriter, r *http.Request) error {
		index, err := strconv.Atoi(r.PathValue("i"))
		if err != nil || index < 0 {
			return d.nothing(w, r)
		}
		q := url.Values{"ticket": {r.PathValue("ticket")}, "index": {strconv.Itoa(index)}, "of": {of}}
		return d.pass(w, r, batchPath(r.PathValue("store"))+"/body", q)
	}
}

// curl is the request as a command. The address of the API and the token are left to who uses it.
func curl(c *created) string {
	var b strings.Builder
	b.WriteString("curl")
	if c.Method == http.MethodHead {
		b.WriteString(" --head")
	} else if c.Method != http.MethodGet {
		b.WriteString(" -X " + c.Method)
	}
	path := c.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	b.WriteString(` "$API"` + quoted(path) + ` \` + "\n  -H \"Authorization: Bearer $TOKEN\"")
	for _, name := range sortedKeys(c.Headers) {
		b.WriteString(" \\\n  -H " + quoted(name+": "+c.Headers[name]))
	}
	switch {
	case c.BodyBytes > 0:
		b.WriteString(" \\\n  -H 'Content-Type: application/json' \\\n  --data-binary @" + bodyFile(c.Index))
	case c.Body != nil:
		b.WriteString(" \\\n  -H 'Content-Type: application/json' \\\n  --data-binary " + quoted(string(c.sent())))
	}
	return b.String()
}

// sent returns the body as it is sent: the text of a JSON string, other JSON as it stands.
func (c *created) sent() []byte {
	var text string
	if len(c.Body) > 0 && c.Body[0] == '"' && json.Unmarshal(c.Body, &text) == nil {
		return []byte(text)
	}
	return c.Body
}

// bodyFile is what a request's body is called when it is downloaded.
func bodyFile(index int) string { return "request-" + strconv.Itoa(index) + ".txt" }

// quoted is a text that a shell takes as it is.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
