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

// timeline is the API's description of a batch and all its requests.
type timeline struct {
	Status, GroupID, RetryOf         string
	TotalRequests, CompletedRequests int
	CreatedAt, StartedAt, FinishedAt time.Time
	waiting
	QuarantinedAt                         time.Time
	QuarantineReason                      string
	Paused, Parallel, StopOnFirstFailure  bool
	Concurrency                           int
	Retries                               *int // nil: the service's limit
	RetryBackoff, SuccessStatus, FailWhen string
	Requests                              []progress
}

// waiting says what a queue waits for.
type waiting struct {
	WaitsUntil   time.Time
	WaitingFor   string // "upstream", "credential" or ""
	WaitingSince time.Time
}

// progress is the API's description of one request.
type progress struct {
	Index                                            int
	ID, Method, Path, Status, HTTPStatusLine, Reason string
	HTTPStatusCode, Attempts, Retries, Throttles     int
	StartedAt, ThrottledAt, EndedAt, NextAttemptAt   time.Time
	LastAttemptAt                                    time.Time // when the last attempt began; zero: unknown, or it is the first one
	InDoubt                                          bool
}

// inDoubt is the state that the pages show for a request that is FAILED and in doubt.
const inDoubt = "IN_DOUBT"

// Took returns the time from the start of the first attempt to the end of the last.
func (p progress) Took() time.Duration {
	if p.StartedAt.IsZero() || p.EndedAt.IsZero() {
		return 0
	}
	return p.EndedAt.Sub(p.StartedAt)
}

// rowsPerPage is how many requests a page lists.
const rowsPerPage = 100

// batchView is the data of a batch's page.
type batchView struct {
	timeline
	Store, Ticket                                       string
	Succeeded, Failed, InDoubt, NotExecuted, Unfinished int // Failed doesn't include InDoubt
	QueuePaused                                         bool
	Percent                                             int
	Left                                                time.Duration // the estimated remaining run time; 0: unknown
	Wait, Run                                           time.Duration
	Waterfall                                           waterfall
	Rows                                                []row
	Filter                                              struct{ Status, Code string }
	Codes                                               []int
	Matching                                            int
	First, Last                                         int // the positions of the first and last of Rows among the matching requests, from 1
	Previous, Next                                      string
	Link                                                string
}

// States returns the states that requests can be filtered by.
func (batchView) States() []string {
	return []string{"COMPLETED", "FAILED", inDoubt, "NOT_EXECUTED", "PENDING", "RUNNING", "WAITING"}
}

func (v batchView) every() int {
	if v.Status == "COMPLETED" {
		return 0
	}
	return 1000
}

// row is one request in the table, with its bar on the timeline.
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
	v.Waterfall = newWaterfall(&v.timeline, now)
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
	v.First, v.Last = from+1, min(from+rowsPerPage, len(matching))
	if from > 0 {
		v.Previous = v.page(r.URL.Path, max(from-rowsPerPage, 0))
	}
	if v.Last < len(matching) {
		v.Next = v.page(r.URL.Path, v.Last)
	}
	for _, p := range matching[from:v.Last] {
		v.Rows = append(v.Rows, row{p, v.Waterfall.bar(&p)})
	}
	return d.show(w, r, http.StatusOK, "batch", "Batch "+short(ticket), v)
}

// page returns the URL of the page that begins with the matching request number from.
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

// count counts the requests by state and computes the times.
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
	} else if ended > 0 && !v.Paused && v.QuarantinedAt.IsZero() && v.WaitingFor == "" {
		v.Left = v.Run / time.Duration(ended) * time.Duration(v.Unfinished)
	}
}

// response is the API's description of one answer. The body is exactly what the upstream sent.
type response struct {
	Index                               int
	ID, Status, HTTPStatusLine, Reason  string
	Method, Path, EscapedHTTPBody       string
	HTTPBodyEncoding                    string
	HTTPStatusCode, Attempts, Throttles int
	HTTPBodyBytes                       int // the length of the whole body if it is truncated here; otherwise 0
	DurationMs                          int64
	StartedAt                           time.Time
	Headers                             map[string]string
	InDoubt                             bool
}

// Shown returns the state that the page shows.
func (a *response) Shown() string {
	if a.InDoubt {
		return inDoubt
	}
	return a.Status
}

// createdRequest is a request as its creator sent it.
type createdRequest struct {
	Index            int
	ID, Method, Path string
	Body             json.RawMessage
	BodyText         string // the beginning of a long body, instead of Body
	BodyBytes        int    // the length of a long body
	Headers, Refs    map[string]string
	DependsOn        []string
	RunIf            string
}

// requestView is the data of one request's page.
type requestView struct {
	Store, Ticket string
	Index, Total  int
	Request       createdRequest
	RequestBody   bodyView
	Answer        *response // nil: none yet
	AnswerBody    bodyView
	Curl          string
}

// Previous and Next return the URLs of the neighboring requests' pages, or "" if there is none.
func (v requestView) Previous() string { return v.pageOf(v.Index - 1) }
func (v requestView) Next() string     { return v.pageOf(v.Index + 1) }

func (v requestView) pageOf(i int) string {
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

// bodyView is a body as the page shows it.
type bodyView struct {
	Kind  string // "JSON", "text", "binary", "none"
	Bytes int    // the length of the whole body
	Text  string
	Cut   bool // Text is only the beginning
}

// maxShown is how many bytes of a body are read and shown. The whole body can be downloaded.
const maxShown = 64 << 10

// request shows one request and its answer.
func (d *Dashboard) request(w http.ResponseWriter, r *http.Request) error {
	store, ticket := r.PathValue("store"), r.PathValue("ticket")
	v := requestView{Store: store, Ticket: ticket}
	var err error
	if v.Index, err = strconv.Atoi(r.PathValue("i")); err != nil || v.Index < 0 {
		return d.notFound(w, r)
	}
	var got struct{ Requests []createdRequest }
	if err := d.get(r, batchPath(store)+"/requests", one(ticket, v.Index), &got); err != nil {
		return err
	}
	if len(got.Requests) != 1 {
		return &problem{http.StatusNotFound, "This batch has no request with that index."}
	}
	v.Request = got.Requests[0]
	v.RequestBody = v.Request.view()
	v.Curl = curl(&v.Request)
	if v.Answer, v.Total, err = d.response(r, v.Index); err != nil {
		return err
	}
	if v.Answer != nil {
		v.AnswerBody = newBodyView(v.Answer.body(), v.Answer.HTTPBodyBytes)
	}
	return d.show(w, r, http.StatusOK, "request", fmt.Sprintf("Request %d of batch %s", v.Index, short(ticket)), v)
}

// one returns the parameters that select the request or response at an index.
func one(ticket string, index int) url.Values {
	return url.Values{"ticket": {ticket}, "after": {strconv.Itoa(index - 1)}, "limit": {"1"}, "bodyBytes": {strconv.Itoa(maxShown)}}
}

// response returns the response at an index (nil: none yet) and the number of requests in the batch.
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

// view returns the request's body as the page shows it.
func (c *createdRequest) view() bodyView {
	if c.BodyBytes > 0 {
		return newBodyView([]byte(c.BodyText), c.BodyBytes)
	}
	return newBodyView(c.payload(), 0)
}

// body returns the answer's body, or its beginning.
func (a *response) body() []byte {
	if a.HTTPBodyEncoding == "base64" {
		if b, err := base64.StdEncoding.DecodeString(a.EscapedHTTPBody); err == nil {
			return b
		}
	}
	return []byte(a.EscapedHTTPBody)
}

// download sends the whole body of an answer or a request as a file, never as a page. The body is
// streamed from the API.
func (d *Dashboard) download(of string) page {
	return func(w http.ResponseWriter, r *http.Request) error {
		index, err := strconv.Atoi(r.PathValue("i"))
		if err != nil || index < 0 {
			return d.notFound(w, r)
		}
		q := url.Values{"ticket": {r.PathValue("ticket")}, "index": {strconv.Itoa(index)}, "of": {of}}
		return d.forward(w, r, batchPath(r.PathValue("store"))+"/body", q)
	}
}

// curl returns the request as a shell command. The user sets the variables API and TOKEN.
func curl(c *createdRequest) string {
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
	b.WriteString(` "$API"` + shellQuote(path) + ` \` + "\n  -H \"Authorization: Bearer $TOKEN\"")
	for _, name := range sortedKeys(c.Headers) {
		b.WriteString(" \\\n  -H " + shellQuote(name+": "+c.Headers[name]))
	}
	switch {
	case c.BodyBytes > 0:
		b.WriteString(" \\\n  -H 'Content-Type: application/json' \\\n  --data-binary @" + bodyFile(c.Index))
	case c.Body != nil:
		b.WriteString(" \\\n  -H 'Content-Type: application/json' \\\n  --data-binary " + shellQuote(string(c.payload())))
	}
	return b.String()
}

// payload returns the body that is sent upstream: the text of a JSON string, or other JSON unchanged.
func (c *createdRequest) payload() []byte {
	var text string
	if len(c.Body) > 0 && c.Body[0] == '"' && json.Unmarshal(c.Body, &text) == nil {
		return []byte(text)
	}
	return c.Body
}

// bodyFile is the file name of a downloaded request body.
func bodyFile(index int) string { return "request-" + strconv.Itoa(index) + ".txt" }

// shellQuote quotes a text for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
