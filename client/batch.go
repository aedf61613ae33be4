package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Request is one HTTP call of a batch. The zero values of all but Method and Path stand for
// nothing. What is below Body goes beyond the wire contract: only Sheaf knows it.
type Request struct {
	ID     string `json:"id,omitempty"` // comes back with the response
	Method string `json:"method"`       // GET, HEAD, POST, PUT, PATCH or DELETE
	Path   string `json:"path"`         // relative to the store's root, query included
	Body   any    `json:"body,omitempty"`

	Headers   map[string]string `json:"headers,omitempty"`
	DependsOn []string          `json:"dependsOn,omitempty"` // ids of earlier requests
	RunIf     string            `json:"runIf,omitempty"`     // success, failure or always
	Refs      map[string]string `json:"refs,omitempty"`      // places to fill from earlier answers, such as "path:pid": "p#/id"
}

// MaxRequests is how many requests a batch has at most.
const MaxRequests = 500

// CreateOptions are choices for a whole batch.
type CreateOptions struct {
	Parallel          bool   // up to 100 of its requests at the same time
	ContinueOnFailure bool   // a failure does not end the batch, and is repeated first where that may help
	GroupID           string // a name for several batches together
	// DeduplicationKey, a UUID: for an hour a second Create with it answers with the first
	// one's ticket. Default: a new one, so that the client can repeat the call.
	DeduplicationKey string
	CallbackURL      string // told of the end, where the server has callbacks
}

func (o *CreateOptions) query() url.Values {
	q := url.Values{}
	if o.Parallel {
		q.Set("allowParallelMode", "true")
	}
	if o.ContinueOnFailure {
		q.Set("stopOnFirstFailure", "false")
	}
	if o.GroupID != "" {
		q.Set("groupId", o.GroupID)
	}
	if o.CallbackURL != "" {
		q.Set("callbackUrl", o.CallbackURL)
	}
	return q
}

// Create hands a batch of 1 to 500 requests over and returns its ticket. From then on the
// batch is never lost.
func (c *Client) Create(ctx context.Context, requests []Request, o CreateOptions) (ticket string, err error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // the upstream gets a body as its text stands here
	if err := enc.Encode(requests); err != nil {
		return "", fmt.Errorf("a request's body can't be written as JSON: %w", err)
	}
	return c.CreateJSON(ctx, body.Bytes(), o)
}

// CreateJSON is Create for requests that are JSON already: an array of objects.
func (c *Client) CreateJSON(ctx context.Context, requests []byte, o CreateOptions) (ticket string, err error) {
	query := o.query()
	if o.DeduplicationKey == "" {
		o.DeduplicationKey = newUUID()
	}
	query.Set("deduplicationKey", o.DeduplicationKey)
	var created struct {
		Ticket string `json:"ticket"`
	}
	if err := c.ask(ctx, &call{method: http.MethodPost, query: query, body: requests, creates: true}, &created); err != nil {
		return "", err
	}
	if created.Ticket == "" {
		return "", fmt.Errorf("%s took the batch, and gave no ticket: is the address right?", c.options.Server)
	}
	return created.Ticket, nil
}

// newUUID returns a random UUID (RFC 9562, section 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Status is the state of a batch.
type Status string

// The states of a batch.
const (
	Queued     Status = "QUEUED"
	InProgress Status = "IN_PROGRESS"
	Completed  Status = "COMPLETED" // nothing more will happen
)

// Batch is the status of a batch. What is below Responses comes only with
// GetOptions.Details.
type Batch struct {
	Status            Status     `json:"status"`
	TotalRequests     int        `json:"totalRequests"`
	CompletedRequests int        `json:"completedRequests"` // that ran to an end, well or badly
	Responses         []Response `json:"responses"`         // in request order, of what has ended

	FailedRequests  int `json:"failedRequests"`
	InDoubtRequests int `json:"inDoubtRequests"` // of the failed ones

	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt"`  // zero: it has not begun
	FinishedAt time.Time `json:"finishedAt"` // zero: it has not ended
	GroupID    string    `json:"groupId"`
	RetryOf    string    `json:"retryOf"` // the ticket of the batch that it repeats a part of
	Paused     bool      `json:"paused"`

	QuarantinedAt    time.Time `json:"quarantinedAt"`    // since when it is set aside, as it can't be run; zero: it is not
	QuarantineReason string    `json:"quarantineReason"` // why

	WaitsUntil time.Time `json:"waitsUntil"` // nothing of it is sent before: the upstream asks for patience, or a failure is to be repeated; zero: it does not wait
}

// ResultStatus is how one request ended.
type ResultStatus string

// The ends of a request.
const (
	Succeeded   ResultStatus = "COMPLETED"
	Failed      ResultStatus = "FAILED"       // answered otherwise, not answered, or in doubt: see Response.InDoubt
	NotExecuted ResultStatus = "NOT_EXECUTED" // never sent
)

// InDoubt selects the responses that are Failed and in doubt, in GetOptions.Only. No response has
// this status.
const InDoubt ResultStatus = "IN_DOUBT"

// is reports whether a response matches GetOptions.Only.
func (r *Response) is(only ResultStatus) bool {
	return only == "" || r.Status == only || only == InDoubt && r.InDoubt
}

// Response is what became of one request. What is below Reason comes only with
// GetOptions.Details.
type Response struct {
	Index        int             `json:"-"` // its place in the batch, from 0; -1: the server did not tell
	ID           string          `json:"id,omitempty"`
	Status       ResultStatus    `json:"status"`
	InDoubt      bool            `json:"inDoubt,omitempty"`          // it is Failed, and it is unknown whether the upstream carried it out
	Body         json.RawMessage `json:"httpBody,omitempty"`         // JSON as it came; of other text a JSON string; nil: none
	BodyEncoding string          `json:"httpBodyEncoding,omitempty"` // "base64": Body is a string of bytes that are no UTF-8
	StatusCode   int             `json:"httpStatusCode,omitempty"`   // 504 or 502 where no answer came; 0: not executed
	StatusLine   string          `json:"httpStatusLine,omitempty"`   // the reason phrase, or what happened where no answer came
	Reason       string          `json:"reason,omitempty"`           // why it was not executed

	Method     string            `json:"method,omitempty"`
	Path       string            `json:"path,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"` // of the answer
	Attempts   int               `json:"attempts,omitempty"`
	StartedAt  time.Time         `json:"startedAt,omitzero"` // of the first attempt
	DurationMS int64             `json:"durationMs,omitempty"`
}

// UnmarshalJSON reads one object of a status's responses.
func (r *Response) UnmarshalJSON(text []byte) error {
	type plain Response // without this method
	var read struct {
		plain
		At *int `json:"index"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	*r = Response(read.plain)
	r.Index = -1
	if read.At != nil {
		r.Index = *read.At
	}
	return nil
}

// Bytes returns the answer's body as it came, as far as that can be told: JSON as it is,
// text and bytes without the JSON string around them (so text that is a JSON string comes
// without its quotes).
func (r *Response) Bytes() ([]byte, error) {
	if len(r.Body) == 0 || r.Body[0] != '"' {
		return r.Body, nil
	}
	var text string
	if err := json.Unmarshal(r.Body, &text); err != nil {
		return nil, err
	}
	if r.BodyEncoding == "base64" {
		return base64.StdEncoding.DecodeString(text)
	}
	return []byte(text), nil
}

// Into decodes the answer's body. A request that was no success is a *RequestError.
func Into[T any](r *Response) (T, error) {
	var out T
	if r.Status != Succeeded {
		return out, &RequestError{r}
	}
	if err := json.Unmarshal(r.Body, &out); err != nil {
		return out, fmt.Errorf("the answer of request %s is no %T: %w", r.name(), out, err)
	}
	return out, nil
}

func (r *Response) name() string {
	if r.ID != "" {
		return r.ID
	}
	return "#" + strconv.Itoa(r.Index)
}

// GetOptions say what of a batch is read. They go beyond the wire contract: for a server
// that does not know them, Results and Stream leave out what was not asked for; Get tells everything.
type GetOptions struct {
	NoResponses bool
	Details     bool
	After       int          // leaves out the first so many requests of the batch
	Limit       int          // at most so many responses; 0: all
	Only        ResultStatus // only these; empty: all
}

func (o *GetOptions) query(ticket string) url.Values {
	q := url.Values{"ticket": {ticket}}
	if o.NoResponses {
		q.Set("responses", "false")
	}
	if o.Details {
		q.Set("details", "true")
	}
	if o.After > 0 {
		q.Set("after", strconv.Itoa(o.After-1)) // there: behind this index
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Only != "" {
		q.Set("only", string(o.Only))
	}
	return q
}

// Get reads the status of a batch, and what has ended of it. It holds all of that in memory;
// see Results.
func (c *Client) Get(ctx context.Context, ticket string, o GetOptions) (*Batch, error) {
	b := &Batch{}
	if err := c.ask(ctx, &call{method: http.MethodGet, query: o.query(ticket)}, b); err != nil {
		return nil, err
	}
	if b.Status == Completed && !o.Details && o.After == 0 && o.Limit == 0 && o.Only == "" {
		for i := range b.Responses { // all of them, in order
			b.Responses[i].Index = i
		}
	}
	return b, nil
}

// Cancel stops a batch: what is under way ends, the rest is not executed. It reports
// whether the batch was unfinished, and not stopped already. Where an answer is lost and the call made
// again, what Cancel, CancelGroup, Pause, Resume and Delete report is what the last call found.
func (c *Client) Cancel(ctx context.Context, ticket string) (bool, error) {
	n, err := c.update(ctx, "/cancel-group", url.Values{"ticketId": {ticket}})
	return n > 0, err
}

// CancelGroup stops all unfinished batches of a group and returns how many there were.
func (c *Client) CancelGroup(ctx context.Context, groupID string) (int, error) {
	return c.update(ctx, "/cancel-group", url.Values{"groupId": {groupID}})
}

// Pause keeps a batch from starting anything more, Resume lets it go on; with an empty
// ticket, the caller's whole queue in the store. They report whether that changed anything.
func (c *Client) Pause(ctx context.Context, ticket string) (bool, error) {
	n, err := c.update(ctx, "/pause", ofBatch(ticket))
	return n > 0, err
}

// Resume undoes Pause.
func (c *Client) Resume(ctx context.Context, ticket string) (bool, error) {
	n, err := c.update(ctx, "/resume", ofBatch(ticket))
	return n > 0, err
}

func ofBatch(ticket string) url.Values {
	if ticket == "" {
		return url.Values{}
	}
	return url.Values{"ticket": {ticket}}
}

func (c *Client) update(ctx context.Context, path string, query url.Values) (int, error) {
	var updated struct {
		Count int `json:"updateCount"`
	}
	err := c.ask(ctx, &call{method: http.MethodPost, path: path, query: query}, &updated)
	return updated.Count, err
}

// Delete stops a batch and removes it and its answers. It reports whether there was one.
func (c *Client) Delete(ctx context.Context, ticket string) (bool, error) {
	var deleted struct {
		Count int `json:"deleteCount"`
	}
	err := c.ask(ctx, &call{method: http.MethodDelete, query: url.Values{"ticketId": {ticket}}}, &deleted)
	return deleted.Count > 0, err
}

// Retry creates a batch that repeats the requests of another one that failed or were not executed,
// without the requests in doubt, and returns its ticket. While that batch is unfinished, further
// calls return the same ticket. If the error isn't an *Error, it is unknown whether the batch was
// created. The client doesn't repeat the call, because that could carry out requests twice.
func (c *Client) Retry(ctx context.Context, ticket string) (string, error) {
	made, err := c.RetryWith(ctx, ticket, RetryOptions{})
	if err != nil {
		return "", err
	}
	return made.Ticket, nil
}

// RetryInDoubt says what a retry does with requests in doubt, which the API may have carried out.
type RetryInDoubt string

// The choices.
const (
	WithoutInDoubt RetryInDoubt = ""     // leaves them out
	WithInDoubt    RetryInDoubt = "true" // repeats them as well
	OnlyInDoubt    RetryInDoubt = "only" // repeats nothing else
)

// RetryOptions are the options of a retry.
type RetryOptions struct {
	InDoubt RetryInDoubt
	DryRun  bool // creates no batch
}

// Retried describes the batch that a retry created, or would create with DryRun.
type Retried struct {
	Ticket          string `json:"ticket"`
	TotalRequests   int    `json:"totalRequests"`   // of the new batch
	InDoubtRequests int    `json:"inDoubtRequests"` // of the old batch, whether the new one repeats them or not
}

// RetryWith is Retry with options.
func (c *Client) RetryWith(ctx context.Context, ticket string, o RetryOptions) (*Retried, error) {
	query := url.Values{"ticket": {ticket}}
	if o.InDoubt != WithoutInDoubt {
		query.Set("inDoubt", string(o.InDoubt))
	}
	if o.DryRun {
		query.Set("dryRun", "true")
	}
	made := &Retried{}
	if err := c.ask(ctx, &call{method: http.MethodPost, path: "/retry", query: query, once: true}, made); err != nil {
		return nil, err
	}
	return made, nil
}

// Item is a batch that List has found.
type Item struct {
	Ticket string `json:"ticket"`
	Status Status `json:"status"`

	Quarantined bool `json:"quarantined,omitempty"` // it is set aside because it can't be run

	// Only in a list without a status:
	FailedRequests  int `json:"failedRequests,omitempty"`
	InDoubtRequests int `json:"inDoubtRequests,omitempty"` // of the failed ones
}

// List goes through the caller's batches of one status, oldest first; with an empty status
// through all of them, newest first (which goes beyond the wire contract). It reads 100 at a time. Of one
// status what changes meanwhile may be left out or come twice, and it ends with an error behind the
// 10,000th batch. An error ends it.
func (c *Client) List(ctx context.Context, status Status) iter.Seq2[Item, error] {
	if status == "" {
		return pages[Item](ctx, c, "/search", nil)
	}
	return pages[Item](ctx, c, "", url.Values{"status": {string(status)}})
}

// pages goes through a list, 100 items a call.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	const size = 100
	return func(yield func(T, error) bool) {
		query := maps.Clone(query)
		if query == nil {
			query = url.Values{}
		}
		query.Set("limit", strconv.Itoa(size))
		for offset := size; ; offset += size {
			var found struct {
				Items []T   `json:"items"`
				Next  int64 `json:"next"`
			}
			if err := c.ask(ctx, &call{method: http.MethodGet, path: path, query: query}, &found); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range found.Items {
				if !yield(item, nil) {
					return
				}
			}
			switch {
			case found.Next != 0:
				query.Set("after", strconv.FormatInt(found.Next, 10))
			case len(found.Items) < size || path != "":
				return
			default:
				query.Set("offset", strconv.Itoa(offset))
			}
		}
	}
}

// Group is the sum over the caller's batches of a group.
type Group struct {
	Batches           map[Status]int       `json:"batches"`
	TotalRequests     int                  `json:"totalRequests"`
	CompletedRequests int                  `json:"completedRequests"`
	Responses         map[ResultStatus]int `json:"responses"`
	InDoubtRequests   int                  `json:"inDoubtRequests"` // of the failed ones
}

// Group counts over the caller's batches of a group. It goes beyond the wire contract: a
// server that does not know it answers with an *Error 404 or 405.
func (c *Client) Group(ctx context.Context, groupID string) (*Group, error) {
	g := &Group{}
	if err := c.ask(ctx, &call{method: http.MethodGet, path: "/group", query: url.Values{"groupId": {groupID}}}, g); err != nil {
		return nil, err
	}
	return g, nil
}
