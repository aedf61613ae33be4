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

// leastPause is the least time between two questions for a batch's status.
const leastPause = 100 * time.Millisecond

// longStream is how long a stream lasts at least that is not counted as a failure, though
// nothing came.
const longStream = time.Minute

// Wait returns the status of a batch, without responses, once it is Completed. progress, unless nil, is told
// of each status on the way. Where the server does not wait itself, it is asked with
// growing pauses, up to 5 seconds.
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
		pause := leastPause - time.Since(began)
		if last != nil && last.Status == b.Status && last.CompletedRequests == b.CompletedRequests && time.Since(began) < time.Second {
			pause = min(firstPause<<min(n, 5), 5*time.Second) // it does not know how to wait
		} else {
			n = 0
		}
		last = b
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		// The first answer was wanted at once.
		what.query.Set("wait", strconv.Itoa(waitFor))
		what.wait = waitFor * time.Second
	}
}

// Results goes through the responses of what has ended of a batch, in request order,
// without holding them in memory. An error ends it. Where a connection breaks midway it goes on behind the
// last response, if their indexes are known: Sheaf tells them, and once a batch is Completed they are
// known with any server.
func (c *Client) Results(ctx context.Context, ticket string, o GetOptions) iter.Seq2[*Response, error] {
	return func(yield func(*Response, error) bool) {
		o.NoResponses = false
		what := &call{method: http.MethodGet, accept: "application/x-ndjson, application/json;q=0.5"}
		repeat := c.repeater(what)
		told, indexed := 0, true
		take := func(r *Response) bool {
			indexed = indexed && r.Index >= 0
			if indexed && r.Index < o.After || !r.is(o.Only) {
				return true // a server that does not know the options tells everything
			}
			o.After = r.Index + 1
			told++
			return yield(r, nil) && told != o.Limit
		}
		for {
			before := told
			what.query = o.query(ticket)
			err := c.results(ctx, what, take)
			if told > before {
				repeat.reset()
			}
			_, midway := errors.AsType[*midwayError](err)
			switch {
			case err == nil:
				return
			case !midway || !indexed || !repeat.pause(ctx, err):
				yield(nil, err)
				return
			}
		}
	}
}

// results reads responses in one call.
func (c *Client) results(ctx context.Context, what *call, take func(*Response) bool) error {
	resp, err := c.open(ctx, what)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	if mediaType(resp) == "application/x-ndjson" {
		return c.each(dec, take)
	}
	return c.eachOfStatus(dec, take)
}

func mediaType(resp *http.Response) string {
	name, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return name
}

// each takes objects to the end.
func (c *Client) each(dec *json.Decoder, take func(*Response) bool) error {
	for {
		r := &Response{}
		switch err := dec.Decode(r); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.unreadable(err)
		case !take(r):
			return nil
		}
	}
}

// eachOfStatus takes the objects of a status's responses, whatever else is in it.
func (c *Client) eachOfStatus(dec *json.Decoder, take func(*Response) bool) error {
	var completed, whole bool
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
					r.Index = i // all of them, in order
				}
				if !take(r) {
					return nil
				}
			}
			if err := c.token(dec, json.Delim(']')); err != nil {
				return err
			}
			whole = true
			continue
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return c.unreadable(err)
		}
		completed = completed || name == "status" && string(value) == `"COMPLETED"`
	}
	if err := c.token(dec, json.Delim('}')); err != nil || whole {
		return err
	}
	return fmt.Errorf("%s answered a status without responses", c.options.Server)
}

func (c *Client) token(dec *json.Decoder, want json.Delim) error {
	got, err := dec.Token()
	switch {
	case err != nil:
		return c.unreadable(err)
	case got != want:
		return fmt.Errorf("%s answered with what is no status of a batch: is the address right?", c.options.Server)
	}
	return nil
}

// unreadable words what ended an answer before its end.
func (c *Client) unreadable(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s answered with broken JSON: %w", c.options.Server, syntax)
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s answered with what is no response of a batch: %w", c.options.Server, wrong)
	}
	return c.midway(err)
}

// midwayError says that an answer that had begun did not come to its end.
type midwayError struct{ error }

func (e *midwayError) Unwrap() error { return e.error }

func (c *Client) midway(err error) error {
	return &midwayError{&transportError{server: c.options.Server, err: err}}
}

// Stream goes through the responses of a batch as they come, each once, until it is
// Completed. Where a connection breaks it goes on with another. A server without events
// tells them all at the end.
func (c *Client) Stream(ctx context.Context, ticket string, o GetOptions) iter.Seq2[*Response, error] {
	return func(yield func(*Response, error) bool) {
		s := &stream{c: c, call: call{method: http.MethodGet, query: o.query(ticket), accept: "text/event-stream, application/json;q=0.5"}, options: o, yield: yield}
		repeat := c.repeater(&s.call)
		for {
			before, began := s.call.lastID, time.Now()
			over, err := s.connect(ctx)
			// A server ends a stream that has had nothing to tell for minutes. That is no failure.
			if s.call.lastID != before || time.Since(began) > longStream {
				repeat.reset()
			}
			_, midway := errors.AsType[*midwayError](err)
			switch {
			case over:
				return
			case s.unknown:
				c.late(ctx, ticket, o, yield)
				return
			case !midway || !repeat.pause(ctx, err):
				yield(nil, err)
				return
			}
		}
	}
}

// late tells what there is once the batch has ended.
func (c *Client) late(ctx context.Context, ticket string, o GetOptions, yield func(*Response, error) bool) {
	if _, err := c.Wait(ctx, ticket, nil); err != nil {
		yield(nil, err)
		return
	}
	c.Results(ctx, ticket, o)(yield)
}

// stream is a batch whose events are read (HTML, section 9.2).
type stream struct {
	c       *Client
	call    call       // lastID: of the last event that was told
	options GetOptions // the server tells events of all responses
	told    int
	yield   func(*Response, error) bool
	unknown bool // the server has no events
}

// connect reads events until the last one, which is over, or the connection ends.
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
		s.unknown = true
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
				continue // a comment, or nothing
			}
			if over, err := s.take(event, data); over || err != nil {
				return over, err
			}
			s.call.lastID, event, data = id, "", nil
		}
	}
}

// take tells of one event.
func (s *stream) take(event string, data []byte) (over bool, err error) {
	switch event {
	case "end":
		return true, nil
	case "response":
		r := &Response{}
		if err := json.Unmarshal(data, r); err != nil {
			return false, fmt.Errorf("%s sent an event that is no response of a batch: %w", s.c.options.Server, err)
		}
		if r.Index < s.options.After || !r.is(s.options.Only) {
			return false, nil
		}
		s.told++
		return !s.yield(r, nil) || s.told == s.options.Limit, nil
	}
	return false, nil
}
