package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// shop is the data of one store. mu guards all of it.
type shop struct {
	mu       sync.Mutex
	products collection[*product]
	orders   collection[*order]
	skus     map[string]string // the owner of each SKU
	posts    []post
	answers  map[string]postAnswer // by Idempotency-Key

	second   int64 // the current second, in Unix time
	requests int   // the number of requests in this second
}

func newShop() *shop {
	return &shop{skus: map[string]string{}, answers: map[string]postAnswer{}}
}

// post is one POST as it arrived.
type post struct {
	Path string `json:"path"`
	Key  string `json:"idempotencyKey,omitempty"`
	Body string `json:"body"`
}

// postAnswer is a POST and its answer.
type postAnswer struct {
	to post
	answer
}

// note adds a POST to the ledger.
func (c *call) note() {
	if c.Method != http.MethodPost {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.posts = append(c.posts, c.post())
}

func (c *call) post() post {
	return post{c.URL.Path, c.Header.Get("Idempotency-Key"), string(c.body)}
}

func (c *call) ledger() (any, error) { return page(c.posts, c.Request) }

// throttle counts a request and reports whether it exceeds the limit.
func (s *shop) throttle(limit int, now time.Time) bool {
	if second := now.Unix(); second != s.second {
		s.second, s.requests = second, 0
	}
	s.requests++
	return limit > 0 && s.requests > limit
}

// once carries out an operation, or repeats the answer of an earlier POST with the same
// Idempotency-Key.
func (c *call) once(operation func(*call) (any, error)) answer {
	p := c.post()
	if c.Method != http.MethodPost || p.Key == "" {
		return answerOf(operation(c))
	}
	if g, ok := c.answers[p.Key]; ok {
		if g.to != p {
			return answerOf(nil, refuse(http.StatusUnprocessableEntity, "KEY_REUSED", "Another request had this Idempotency-Key"))
		}
		return g.answer
	}
	a := answerOf(operation(c))
	c.answers[p.Key] = postAnswer{p, a}
	return a
}

// claim assigns a SKU to an owner and frees the owner's previous SKU. It returns an error if another owner has
// the SKU. An empty SKU means no SKU.
func (s *shop) claim(owner, old, sku string) error {
	if by, taken := s.skus[sku]; sku != "" && taken && by != owner {
		return conflict("SKU_EXISTS", "SKU '%s' already belongs to %s", sku, by)
	}
	delete(s.skus, old)
	if sku != "" {
		s.skus[sku] = owner
	}
	return nil
}

// decode decodes the body into v. An unknown field is an error.
func (c *call) decode(v any) error {
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return refuse(http.StatusBadRequest, "BAD_BODY", "The body is invalid: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "BAD_BODY", "The body continues after its JSON value")
	}
	return nil
}

// id returns a number in the path, or 0 if it isn't one.
func (c *call) id(name string) int64 {
	id, _ := strconv.ParseInt(c.PathValue(name), 10, 64)
	return id
}

// collection holds values with ascending IDs, from 1.
type collection[T any] struct {
	last int64
	ids  []int64 // in order
	all  map[int64]T
}

func (c *collection[T]) add(id int64, v T) {
	if c.all == nil {
		c.all = map[int64]T{}
	}
	c.last, c.ids, c.all[id] = id, append(c.ids, id), v
}

func (c *collection[T]) remove(id int64) {
	if i, ok := slices.BinarySearch(c.ids, id); ok {
		c.ids = slices.Delete(c.ids, i, i+1)
		delete(c.all, id)
	}
}

// matching returns the values that match a filter, oldest first.
func (c *collection[T]) matching(filter func(T) bool) []T {
	found := make([]T, 0, len(c.ids))
	for _, id := range c.ids {
		if v := c.all[id]; filter(v) {
			found = append(found, v)
		}
	}
	return found
}

// list is one page of a list.
type list[T any] struct {
	Total  int `json:"total"`
	Count  int `json:"count"`
	Offset int `json:"offset"`
	Limit  int `json:"limit"`
	Items  []T `json:"items"`
}

// page returns the part of a list that the query parameters select: offset (default 0) and limit (1 to
// 100, default 100).
func page[T any](all []T, r *http.Request) (any, error) {
	offset, err := number(r, "offset", 0)
	if err != nil || offset < 0 {
		return nil, invalid("Parameter 'offset' must be a number, 0 or more")
	}
	limit, err := number(r, "limit", 100)
	if err != nil || limit < 1 || limit > 100 {
		return nil, invalid("Parameter 'limit' must be a number from 1 to 100")
	}
	from := min(offset, len(all))
	items := append([]T{}, all[from:min(from+limit, len(all))]...)
	return list[T]{len(all), len(items), offset, limit, items}, nil
}

func number(r *http.Request, name string, byDefault int) (int, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return byDefault, nil
	}
	return strconv.Atoi(s)
}
