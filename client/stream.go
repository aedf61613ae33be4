package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// minPollInterval is the shortest time between two polls of a batch's status.
const minPollInterval = 100 * time.Millisecond

// longStream is how long a stream without events must last so that its end doesn't count as a failure.
const longStream = time.Minute

// Wait waits until a batch is Completed and returns its status without responses. If progress is not
// nil, Wait calls it with each new status, including the last. Wait uses long polling. If the server
// doesn't support that, Wait polls with growing pauses of up to 5 seconds.
func (c *Client) Wait(ctx context.Context, ticket string, progress func(*Batch)) (*Batch, error) {
	var last *Batch
	what := &call{method: http.MethodGet, query: (&GetOptions{NoResponses: true}).query(ticket), validate: true}
	for n := 0; ; n++ {
		began := time.Now()
		b := &Batch{}
		err := c.ask(ctx, what, b)
		same := errors.Is(err, errNotModified)
		if err != nil && !same {
			return nil, err
		}
		if same {
			b = last
		}
		b.Responses = nil
		if progress != nil && !same {
			progress(b)
		}
		if b.Status == Completed {
			return b, nil
		}
		pause := minPollInterval - time.Since(began)
		if last != nil && last.Status == b.Status && last.CompletedRequests == b.CompletedRequests && time.Since(began) < time.Second {
			pause = min(firstPause<<min(n, 5), 5*time.Second) // the server doesn't support long polling
		} else {
			n = 0
		}
		last = b
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		// The first call returns at once; later ones wait for a change.
		what.query.Set("wait", strconv.Itoa(waitFor))
		what.wait = waitFor * time.Second
	}
}

// Results iterates over the responses of the requests that have ended, in request order. It holds one
// response at a time in memory. The iteration ends after the first error.
//
// If the connection breaks, Results resumes after the last response. That requires the responses'
// indexes. Sheaf always sends them. With other servers, they are known only once the batch is
// Completed.
func (c *Client) Results(ctx context.Context, ticket string, o GetOptions) iter.Seq2[*Response, error] {
	return func(yield func(*Response, error) bool) {
		o.NoResponses = false
		what := &call{method: http.MethodGet, accept: "application/x-ndjson, application/json;q=0.5"}
		retrier := c.newRetrier(what)
		yielded, indexed := 0, true
		accept := func(r *Response) bool {
			indexed = indexed && r.Index >= 0
			if indexed && r.Index < o.After || !r.is(o.Only) {
				return true // the server doesn't support the options
			}
			o.After = r.Index + 1
			yielded++
			return yield(r, nil) && yielded != o.Limit
		}
		for {
			before := yielded
			what.query = o.query(ticket)
			err := c.results(ctx, what, accept)
			if yielded > before {
				retrier.reset()
			}
			_, midway := errors.AsType[*midwayError](err)
			switch {
			case err == nil:
				return
			case !midway || !indexed || !retrier.pause(ctx, err):
				yield(nil, err)
				return
			}
		}
	}
}

// results makes one call and passes its responses to accept until accept returns false.
func (c *Client) results(ctx context.Context, what *call, accept func(*Response) bool) error {
	resp, err := c.open(ctx, what)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	if mediaType(resp) == "application/x-ndjson" {
		return c.readLines(dec, accept)
	}
	return c.readStatus(dec, accept)
}

func mediaType(resp *http.Response) string {
	name, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return name
}

// readLines reads responses as NDJSON.
func (c *Client) readLines(dec *json.Decoder, accept func(*Response) bool) error {
	for {
		r := &Response{}
		switch err := dec.Decode(r); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.unreadable(err)
		case !accept(r):
			return nil
		}
	}
}

// readStatus reads the responses in a batch's status.
func (c *Client) readStatus(dec *json.Decoder, accept func(*Response) bool) error {
	var completed, found bool
	if err := c.token(dec, json.Delim('{')); err != nil {
		return err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return c.unreadable(err)
		}
		if name == "responses" {
			if err := c.token(dec, json.Delim('[')); err != nil {
				return err
			}
			for i := 0; dec.More(); i++ {
				r := &Response{}
				if err := dec.Decode(r); err != nil {
					return c.unreadable(err)
				}
				if r.Index < 0 && completed {
					r.Index = i // the responses are complete and in order
					// A server that sends no indexes doesn't report requests in doubt either.
					r.InDoubt = r.Status == Failed && (r.StatusCode == http.StatusBadGateway || r.StatusCode == http.StatusGatewayTimeout)
				}
				if !accept(r) {
					return nil
				}
			}
			if err := c.token(dec, json.Delim(']')); err != nil {
				return err
			}
			found = true
			continue
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return c.unreadable(err)
		}
		completed = completed || name == "status" && string(value) == `"COMPLETED"`
	}
	if err := c.token(dec, json.Delim('}')); err != nil || found {
		return err
	}
	return fmt.Errorf("%s answered with a status without responses", c.options.Server)
}

func (c *Client) token(dec *json.Decoder, want json.Delim) error {
	got, err := dec.Token()
	switch {
	case err != nil:
		return c.unreadable(err)
	case got != want:
		return fmt.Errorf("%s did not answer with the status of a batch; check the server's URL", c.options.Server)
	}
	return nil
}

// unreadable returns the error for an answer that could not be decoded or ended early.
func (c *Client) unreadable(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s answered with invalid JSON: %w", c.options.Server, syntax)
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s answered with an invalid response of a batch: %w", c.options.Server, wrong)
	}
	return c.midway(err)
}

// midwayError means that the connection broke in the middle of an answer.
type midwayError struct{ error }

func (e *midwayError) Unwrap() error { return e.error }

func (c *Client) midway(err error) error {
	return &midwayError{&transportError{server: c.options.Server, err: err}}
}

// Stream iterates over the responses of a batch as its requests end. It yields each response once and
// ends when the batch is Completed. In a parallel batch, responses are not in request order. If the
// connection breaks, Stream reconnects and resumes. If the server doesn't support events, Stream
// yields all responses once the batch is Completed. The iteration ends after the first error.
func (c *Client) Stream(ctx context.Context, ticket string, o GetOptions) iter.Seq2[*Response, error] {
	return func(yield func(*Response, error) bool) {
		s := &stream{c: c, call: call{method: http.MethodGet, query: o.query(ticket), accept: "text/event-stream, application/json;q=0.5"}, options: o, yield: yield}
		retrier := c.newRetrier(&s.call)
		for {
			before, began := s.call.lastID, time.Now()
			over, err := s.connect(ctx)
			// A server ends a stream after some minutes without events. That isn't a failure.
			if s.call.lastID != before || time.Since(began) > longStream {
				retrier.reset()
			}
			_, midway := errors.AsType[*midwayError](err)
			switch {
			case over:
				return
			case s.unsupported:
				c.resultsAtEnd(ctx, ticket, o, yield)
				return
			case !midway || !retrier.pause(ctx, err):
				yield(nil, err)
				return
			}
		}
	}
}

// resultsAtEnd yields the responses once the batch is Completed.
func (c *Client) resultsAtEnd(ctx context.Context, ticket string, o GetOptions, yield func(*Response, error) bool) {
	if _, err := c.Wait(ctx, ticket, nil); err != nil {
		yield(nil, err)
		return
	}
	c.Results(ctx, ticket, o)(yield)
}

// stream reads the server-sent events of a batch (HTML standard, section 9.2).
type stream struct {
	c           *Client
	call        call       // its lastID is the ID of the last event that was handled
	options     GetOptions // applied here, because the server sends the events of all responses
	yielded     int
	yield       func(*Response, error) bool
	unsupported bool // the server doesn't support events
}

// connect makes one call and handles its events until the connection ends. over reports whether
// the iteration is complete.
func (s *stream) connect(ctx context.Context) (over bool, err error) {
	resp, err := s.c.open(ctx, &s.call)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNoContent:
		return true, nil
	case mediaType(resp) != "text/event-stream":
		s.unsupported = true
		return false, nil
	}
	lines := bufio.NewReader(resp.Body)
	var event, id string
	var data []byte
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return false, s.c.midway(err)
		}
		line = bytes.TrimRight(line, "\r\n")
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			event = string(value)
		case "id":
			id = string(value)
		case "data":
			if len(data) > 0 {
				data = append(data, '\n')
			}
			data = append(data, value...)
		case "":
			if len(line) > 0 || event == "" {
				continue // a comment, or an empty line without an event
			}
			if over, err := s.handle(event, data); over || err != nil {
				return over, err
			}
			s.call.lastID, event, data = id, "", nil
		}
	}
}

// handle handles one event. over reports whether it is the last one.
func (s *stream) handle(event string, data []byte) (over bool, err error) {
	switch event {
	case "end":
		return true, nil
	case "response":
		r := &Response{}
		if err := json.Unmarshal(data, r); err != nil {
			return false, fmt.Errorf("%s sent an event with an invalid response of a batch: %w", s.c.options.Server, err)
		}
		if r.Index < s.options.After || !r.is(s.options.Only) {
			return false, nil
		}
		s.yielded++
		return !s.yield(r, nil) || s.yielded == s.options.Limit, nil
	}
	return false, nil
}
