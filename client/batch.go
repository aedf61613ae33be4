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
	"strings"
	"time"
)

// Request is one HTTP request of a batch. Only Method and Path are required. Servers other
// than Sheaf don't support the fields below Body.
type Request struct {
	ID     string `json:"id,omitempty"`   // returned with the response
	Method string `json:"method"`         // GET, HEAD, POST, PUT, PATCH or DELETE
	Path   string `json:"path"`           // relative to the store's URL, including the query
	Body   any    `json:"body,omitempty"` // encoded as JSON

	Headers   map[string]string `json:"headers,omitempty"`
	DependsOn []string          `json:"dependsOn,omitempty"` // IDs of earlier requests
	RunIf     string            `json:"runIf,omitempty"`     // when to run after DependsOn: success (the default), failure or always
	Refs      map[string]string `json:"refs,omitempty"`      // values to fill in from earlier answers, such as "path:pid": "p#/id"
}

// MaxRequests is the maximum number of requests in a batch.
const MaxRequests = 500

// CreateOptions are the options of a batch.
type CreateOptions struct {
	// Parallel runs several requests at the same time, up to Concurrency. Default: one at a time, in
	// order.
	Parallel bool
	// ContinueOnFailure keeps the batch running after a request has failed. The server first
	// retries the request if that is safe. Default: the batch ends at the first failure.
	ContinueOnFailure bool

	// Servers other than Sheaf ignore the next five fields.

	// Concurrency is the maximum number of requests in flight, 1 to 100. More than 1 needs Parallel.
	// Default: 100 with Parallel.
	Concurrency int
	// Retries is how often a failed request is retried, 0 to 50. Default: the server's limit with
	// ContinueOnFailure, otherwise 0.
	Retries *int
	// RetryBackoff is the pause before each retry, such as fixed:3s or exponential:1s..5m. Default:
	// the server's.
	RetryBackoff string
	// SuccessStatus lists the status codes that count as success, such as 200,201,404. 2xx stands
	// for all from 200 to 299. Default: the server's rule.
	SuccessStatus string
	// FailWhen holds JSON pointers (RFC 6901), such as /errors. An answer with such a value in its
	// body is a failure, unless the value is null, false or empty. Default: the server's pointers.
	FailWhen []string

	// GroupID is a name that several batches share.
	GroupID string
	// DeduplicationKey is a UUID. For an hour, another Create with the same key returns the first
	// one's ticket. Default: a new key for each call of Create.
	DeduplicationKey string
	// CallbackURL is notified when the batch ends, if the server supports callbacks.
	CallbackURL string
}

func (o *CreateOptions) query() url.Values {
	q := url.Values{}
	if o.Parallel {
		q.Set("allowParallelMode", "true")
	}
	if o.ContinueOnFailure {
		q.Set("stopOnFirstFailure", "false")
	}
	if o.Concurrency > 0 {
		q.Set("concurrency", strconv.Itoa(o.Concurrency))
	}
	if o.Retries != nil {
		q.Set("retries", strconv.Itoa(*o.Retries))
	}
	for name, value := range map[string]string{
		"retryBackoff": o.RetryBackoff, "successStatus": o.SuccessStatus, "failWhen": strings.Join(o.FailWhen, ","),
		"groupId": o.GroupID, "callbackUrl": o.CallbackURL,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// Create creates a batch of 1 to MaxRequests requests and returns its ticket. Once you have the
// ticket, the batch is stored durably.
func (c *Client) Create(ctx context.Context, requests []Request, o CreateOptions) (ticket string, err error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // the upstream must get the body unchanged
	if err := enc.Encode(requests); err != nil {
		return "", fmt.Errorf("encode the requests as JSON: %w", err)
	}
	return c.CreateJSON(ctx, body.Bytes(), o)
}

// CreateJSON is like Create, but takes the requests as an encoded JSON array.
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
		return "", fmt.Errorf("%s answered without a ticket; check the server's URL", c.options.Server)
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
	Completed  Status = "COMPLETED" // the batch has ended, whether or not its requests succeeded
)

// Batch is the state of a batch. The fields below Responses are set only with GetOptions.Details.
type Batch struct {
	Status            Status     `json:"status"`
	TotalRequests     int        `json:"totalRequests"`
	CompletedRequests int        `json:"completedRequests"` // requests that ran, including those that failed
	Responses         []Response `json:"responses"`         // of the requests that have ended, in request order

	FailedRequests  int `json:"failedRequests"`
	InDoubtRequests int `json:"inDoubtRequests"` // included in FailedRequests

	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt"`  // zero: not started
	FinishedAt time.Time `json:"finishedAt"` // zero: not finished
	GroupID    string    `json:"groupId"`
	RetryOf    string    `json:"retryOf"` // the ticket of the batch that this one retries; "": none
	Paused     bool      `json:"paused"`

	QuarantinedAt    time.Time `json:"quarantinedAt"`    // when the batch was quarantined because it can't be run; zero: it wasn't
	QuarantineReason string    `json:"quarantineReason"` // why it was quarantined

	WaitsUntil   time.Time  `json:"waitsUntil"`   // nothing is sent before this time, because the upstream asked to wait or a retry is due then; zero: no wait
	WaitingFor   WaitReason `json:"waitingFor"`   // what the batch, or an earlier one in its queue, waits for; "": nothing
	WaitingSince time.Time  `json:"waitingSince"` // when that wait began; zero: no wait
}

// WaitReason says what a batch waits for.
type WaitReason string

// The reasons to wait.
const (
	ForUpstream   WaitReason = "upstream"   // the API is unavailable
	ForCredential WaitReason = "credential" // the API no longer accepts the credential
)

// ResultStatus is the outcome of one request.
type ResultStatus string

// The outcomes of a request.
const (
	Succeeded   ResultStatus = "COMPLETED"    // the upstream answered with a status that means success
	Failed      ResultStatus = "FAILED"       // it answered with another status or not at all; see Response.InDoubt
	NotExecuted ResultStatus = "NOT_EXECUTED" // the request was never sent
)

// InDoubt in GetOptions.Only selects the responses that are Failed and in doubt. No response has
// this status.
const InDoubt ResultStatus = "IN_DOUBT"

// is reports whether a response matches GetOptions.Only.
func (r *Response) is(only ResultStatus) bool {
	return only == "" || r.Status == only || only == InDoubt && r.InDoubt
}

// Response is the result of one request. The fields below Reason are set only with
// GetOptions.Details.
type Response struct {
	Index        int             `json:"-"` // the request's position in the batch, from 0; -1: the server didn't send it
	ID           string          `json:"id,omitempty"`
	Status       ResultStatus    `json:"status"`
	InDoubt      bool            `json:"inDoubt,omitempty"`          // the request is Failed, but the upstream may have carried it out; Stream sets it for each 502 and 504 of a server without Sheaf's additions
	Body         json.RawMessage `json:"httpBody,omitempty"`         // JSON unchanged, or other content as a JSON string; nil: no body
	BodyEncoding string          `json:"httpBodyEncoding,omitempty"` // "base64" if Body encodes bytes that aren't UTF-8
	StatusCode   int             `json:"httpStatusCode,omitempty"`   // 504 or 502 if no answer came; 0: not executed
	StatusLine   string          `json:"httpStatusLine,omitempty"`   // the reason phrase, or what happened if no answer came
	Reason       string          `json:"reason,omitempty"`           // why the request was not executed

	Method     string            `json:"method,omitempty"`
	Path       string            `json:"path,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"` // headers of the answer
	Attempts   int               `json:"attempts,omitempty"`
	StartedAt  time.Time         `json:"startedAt,omitzero"`   // start of the first attempt
	DurationMS int64             `json:"durationMs,omitempty"` // from the start of the first attempt to the end of the last, in milliseconds
}

// UnmarshalJSON decodes a response as the server sends it. It sets Index to -1 if the response has none.
func (r *Response) UnmarshalJSON(text []byte) error {
	type plain Response // has no UnmarshalJSON, which would recurse
	var decoded struct {
		plain
		At *int `json:"index"`
	}
	if err := json.Unmarshal(text, &decoded); err != nil {
		return err
	}
	*r = Response(decoded.plain)
	r.Index = -1
	if decoded.At != nil {
		r.Index = *decoded.At
	}
	return nil
}

// Bytes returns the body as the upstream sent it. There is one exception: a body that was itself a
// JSON string is returned without its quotes and escapes.
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

// Into decodes the body of a response from JSON. If the request did not succeed, the error is a
// *RequestError.
func Into[T any](r *Response) (T, error) {
	var out T
	if r.Status != Succeeded {
		return out, &RequestError{r}
	}
	if err := json.Unmarshal(r.Body, &out); err != nil {
		return out, fmt.Errorf("decode the answer of request %s into %T: %w", r.name(), out, err)
	}
	return out, nil
}

func (r *Response) name() string {
	if r.ID != "" {
		return r.ID
	}
	return "#" + strconv.Itoa(r.Index)
}

// GetOptions select what to read of a batch. Servers other than Sheaf may ignore them. Then Results
// and Stream filter the responses themselves, but Get returns everything.
type GetOptions struct {
	NoResponses bool         // reads the status only
	Details     bool         // reads more fields of Batch and Response
	After       int          // skips this many requests at the start of the batch
	Limit       int          // reads at most this many responses; 0: all
	Only        ResultStatus // reads only responses with this status; "": all
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
		q.Set("after", strconv.Itoa(o.After-1)) // the parameter is the last index to skip
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Only != "" {
		q.Set("only", string(o.Only))
	}
	return q
}

// Get returns a batch with the responses of all requests that have ended. It holds them in memory
// and fails if the answer is larger than 1 GiB; use Results for large batches.
func (c *Client) Get(ctx context.Context, ticket string, o GetOptions) (*Batch, error) {
	b := &Batch{}
	if err := c.ask(ctx, &call{method: http.MethodGet, query: o.query(ticket)}, b); err != nil {
		return nil, err
	}
	if b.Status == Completed && !o.Details && o.After == 0 && o.Limit == 0 && o.Only == "" {
		for i := range b.Responses { // they are complete and in order
			b.Responses[i].Index = i
		}
	}
	return b, nil
}

// Cancel stops a batch. Requests in flight finish, and the rest are not executed. Cancel returns
// false if the batch had already ended or been stopped.
//
// If an answer is lost, Cancel, CancelGroup, Pause, Resume and Delete retry the call and return the
// retry's result. It may be false or 0, because the first attempt has already made the change.
func (c *Client) Cancel(ctx context.Context, ticket string) (bool, error) {
	n, err := c.update(ctx, "/cancel-group", url.Values{"ticketId": {ticket}})
	return n > 0, err
}

// CancelGroup stops all unfinished batches of a group and returns their number.
func (c *Client) CancelGroup(ctx context.Context, groupID string) (int, error) {
	return c.update(ctx, "/cancel-group", url.Values{"groupId": {groupID}})
}

// Pause stops a batch from sending more requests until Resume. Requests in flight finish. If ticket
// is empty, Pause applies to the caller's whole queue in the store. It returns false if the batch or
// queue was already paused.
func (c *Client) Pause(ctx context.Context, ticket string) (bool, error) {
	n, err := c.update(ctx, "/pause", ofBatch(ticket))
	return n > 0, err
}

// Resume undoes Pause. It reports whether the batch or queue was paused.
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

// Delete stops a batch and removes it with its answers. It reports whether the batch existed.
func (c *Client) Delete(ctx context.Context, ticket string) (bool, error) {
	var deleted struct {
		Count int `json:"deleteCount"`
	}
	err := c.ask(ctx, &call{method: http.MethodDelete, query: url.Values{"ticketId": {ticket}}}, &deleted)
	return deleted.Count > 0, err
}

// Retry creates a batch with those requests of another batch that failed or were not executed, and
// returns its ticket. It leaves out requests in doubt. While the new batch is unfinished, further
// calls return the same ticket.
//
// If the error isn't an *Error, the new batch may or may not have been created. The client doesn't
// retry the call in this case, because that could carry out requests twice.
func (c *Client) Retry(ctx context.Context, ticket string) (string, error) {
	created, err := c.RetryWith(ctx, ticket, RetryOptions{})
	if err != nil {
		return "", err
	}
	return created.Ticket, nil
}

// RetryInDoubt says what a retry does with requests in doubt: those that the upstream may have
// carried out.
type RetryInDoubt string

// The values of RetryInDoubt.
const (
	WithoutInDoubt RetryInDoubt = ""     // leaves them out
	WithInDoubt    RetryInDoubt = "true" // repeats them too
	OnlyInDoubt    RetryInDoubt = "only" // repeats only them
)

// RetryOptions are the options of a retry.
type RetryOptions struct {
	InDoubt RetryInDoubt
	DryRun  bool // counts the requests, but creates no batch
}

// Retried describes the batch that a retry created, or would create with DryRun.
type Retried struct {
	Ticket          string `json:"ticket"`
	TotalRequests   int    `json:"totalRequests"`   // of the new batch
	InDoubtRequests int    `json:"inDoubtRequests"` // of the old batch, whether or not the new one repeats them
}

// RetryWith is like Retry, but takes options.
func (c *Client) RetryWith(ctx context.Context, ticket string, o RetryOptions) (*Retried, error) {
	query := url.Values{"ticket": {ticket}}
	if o.InDoubt != WithoutInDoubt {
		query.Set("inDoubt", string(o.InDoubt))
	}
	if o.DryRun {
		query.Set("dryRun", "true")
	}
	created := &Retried{}
	if err := c.ask(ctx, &call{method: http.MethodPost, path: "/retry", query: query, once: true}, created); err != nil {
		return nil, err
	}
	return created, nil
}

// Item is a batch in a list.
type Item struct {
	Ticket string `json:"ticket"`
	Status Status `json:"status"`

	Quarantined bool `json:"quarantined,omitempty"` // the batch can't be run and waits for an operator

	// The counts are set only in a list of all batches.
	FailedRequests  int `json:"failedRequests,omitempty"`
	InDoubtRequests int `json:"inDoubtRequests,omitempty"` // included in FailedRequests
}

// List iterates over the caller's batches with a status, oldest first. If status is empty, it
// iterates over all batches, newest first; only Sheaf supports that. Each call reads 100 batches. The
// iteration ends after the first error.
//
// A list by status may miss or repeat batches whose status changes in the meantime, and it ends with
// an error after 10,000 batches.
func (c *Client) List(ctx context.Context, status Status) iter.Seq2[Item, error] {
	if status == "" {
		return pages[Item](ctx, c, "/search", nil)
	}
	return pages[Item](ctx, c, "", url.Values{"status": {string(status)}})
}

// pages iterates over a list, reading 100 items with each call.
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

// Group counts the caller's batches in a group, and their requests.
type Group struct {
	Batches           map[Status]int       `json:"batches"`
	TotalRequests     int                  `json:"totalRequests"`
	CompletedRequests int                  `json:"completedRequests"`
	Responses         map[ResultStatus]int `json:"responses"`
	InDoubtRequests   int                  `json:"inDoubtRequests"` // included in Responses[Failed]
}

// Group counts the caller's batches in a group, and their requests. Only Sheaf supports it; other
// servers answer with an *Error whose StatusCode is 404 or 405.
func (c *Client) Group(ctx context.Context, groupID string) (*Group, error) {
	g := &Group{}
	if err := c.ask(ctx, &call{method: http.MethodGet, path: "/group", query: url.Values{"groupId": {groupID}}}, g); err != nil {
		return nil, err
	}
	return g, nil
}
