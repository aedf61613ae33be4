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

// shop is one store's data. All of it is guarded by mu.
type shop struct {
	mu       sync.Mutex
	products collection[*product]
	orders   collection[*order]
	skus     map[string]string // who has it, by sku
	posts    []post
	answers  map[string]given // to POSTs, by their Idempotency-Key

	second int64 // of the clock, in which asked counts
	asked  int
}

func newShop() *shop {
	return &shop{skus: map[string]string{}, answers: map[string]given{}}
}

// post is one POST as it arrived.
type post struct {
	Path string `json:"path"`
	Key  string `json:"idempotencyKey,omitempty"`
	Body string `json:"body"`
}

// given is an answer that was given to a POST.
type given struct {
	to post
	answer
}

// note writes a POST into the ledger.
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

// throttle counts a request and reports whether it is one too many.
func (s *shop) throttle(limit int, now time.Time) bool {
	if second := now.Unix(); second != s.second {
		s.second, s.asked = second, 0
	}
	s.asked++
	return limit > 0 && s.asked > limit
}

// once carries out an operation, or repeats the answer of the POST that had the
// same Idempotency-Key.
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
	c.answers[p.Key] = given{p, a}
	return a
}

// claim gives a sku to its new owner, or says whose it is. The owner's old one is
// freed. An empty sku is none.
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

// decode reads the body into v. A field that v does not have is a mistake of the
// client's, and told.
func (c *call) decode(v any) error {
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return refuse(http.StatusBadRequest, "BAD_BODY", "The body is not what is expected here: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "BAD_BODY", "The body goes on after its JSON value")
	}
	return nil
}

// id returns a number of the path, 0 if it is none.
func (c *call) id(name string) int64 {
	id, _ := strconv.ParseInt(c.PathValue(name), 10, 64)
	return id
}

// collection holds things under ids that count up from 1.
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

// matching returns what a filter lets pass, oldest first.
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

// page cuts out what the query parameters offset (default 0) and limit (1 to 100,
// default 100) ask for.
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
