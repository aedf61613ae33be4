package store_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/examples/store"
)

// send sends a request to store 1 and returns the answer's status code and body.
func send(api http.Handler, method, path, body string, headers ...string) (int, string) {
	w := exchange(api, method, "/api/v3/1"+path, body, append(headers, "Authorization", "Bearer t")...)
	return w.Code, w.Body.String()
}

func exchange(api http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

// step is a request with the expected status code and a part of the expected body.
type step struct {
	method, path, body string
	code               int
	part               string
}

// story runs steps in order.
func story(t *testing.T, api http.Handler, steps []step) {
	t.Helper()
	for i, s := range steps {
		code, body := send(api, s.method, s.path, s.body)
		if code != s.code || !strings.Contains(body, s.part) {
			t.Errorf("step %d: %s %s %s: got %d %s, want %d with %s", i, s.method, s.path, s.body, code, body, s.code, s.part)
		}
	}
}

func TestProducts(t *testing.T) {
	story(t, store.New(store.Options{}), []step{
		{"GET", "/products", "", 200, `"total":0,"count":0,"offset":0,"limit":100,"items":[]`},
		{"POST", "/products", `{"name":"Mug","sku":"M","price":9.5,"quantity":3}`, 201, `{"id":1}`},
		{"POST", "/products", `{"name":"Tea"}`, 201, `{"id":2}`},
		{"GET", "/products/1", "", 200, `{"id":1,"name":"Mug","sku":"M","price":9.5,"quantity":3}`},
		{"GET", "/products?keyword=tea", "", 200, `"total":1`},
		{"GET", "/products?keyword=m", "", 200, `"items":[{"id":1,`},
		{"GET", "/products?offset=1&limit=1", "", 200, `"total":2,"count":1,"offset":1,"limit":1,"items":[{"id":2,`},
		{"GET", "/products?offset=9", "", 200, `"count":0`},
		{"GET", "/products?limit=0", "", 400, `'limit' must be`},
		{"GET", "/products?offset=x", "", 400, `'offset' must be`},

		{"POST", "/products", `{"name":"Cup","price":-1}`, 400, `"errorMessage":"Field 'price' must not be negative","errorCode":"WRONG_PARAMETER"`},
		{"POST", "/products", `{"price":1}`, 400, `'name' is required`},
		{"POST", "/products", `{"name":"Cup","quantity":-1}`, 400, `'quantity' must not`},
		{"POST", "/products", `{"name":"Cup","color":"red"}`, 400, `unknown field \"color\"`},
		{"POST", "/products", `{"name":"Cup"} {}`, 400, `continues after`},
		{"POST", "/products", `{"name":`, 400, `BAD_BODY`},
		{"POST", "/products", `{"name":"Cup","sku":"M"}`, 409, `SKU 'M' already belongs to product 1`},

		{"PATCH", "/products/1", `{"quantity":7,"price":-1}`, 400, `'price'`},
		{"GET", "/products/1", "", 200, `"price":9.5,"quantity":3`},
		{"PATCH", "/products/1", `{"quantity":7}`, 200, `{"updateCount":1}`},
		{"GET", "/products/1", "", 200, `{"id":1,"name":"Mug","sku":"M","price":9.5,"quantity":7}`},
		{"PUT", "/products/1", `{"name":"Cup","sku":"C"}`, 200, `{"updateCount":1}`},
		{"GET", "/products/1", "", 200, `{"id":1,"name":"Cup","sku":"C","price":0}`},
		{"PUT", "/products/2", `{"name":"Tea","sku":"C"}`, 409, `SKU_EXISTS`},
		{"PUT", "/products/2", `{"name":"Tea","sku":"M"}`, 200, ``},

		{"DELETE", "/products/1", "", 200, `{"deleteCount":1}`},
		{"DELETE", "/products/1", "", 404, `Product 1 not found`},
		{"GET", "/products/1", "", 404, `"errorCode":"NOT_FOUND"`},
		{"PATCH", "/products/1", `{}`, 404, ``},
		{"POST", "/products", `{"name":"Again","sku":"C"}`, 201, `{"id":3}`},
	})
}

func TestVariations(t *testing.T) {
	story(t, store.New(store.Options{}), []step{
		{"POST", "/products/1/combinations", `{"options":[{"name":"Size","value":"M"}]}`, 404, `Product 1 not found`},
		{"POST", "/products", `{"name":"Shirt","price":20}`, 201, ``},
		{"POST", "/products/1/combinations", `{"options":[{"name":"Size","value":"M"}],"sku":"S-M","price":21}`, 201, `{"id":1}`},
		{"POST", "/products/1/combinations", `{"options":[{"name":"Size","value":"M"}]}`, 409, `COMBINATION_EXISTS`},
		{"POST", "/products/1/combinations", `{"options":[{"name":"Size","value":"L"}],"sku":"S-M"}`, 409, `already belongs to combination 1 of product 1`},
		{"POST", "/products/1/combinations", `{"options":[]}`, 400, `'options' is required`},
		{"POST", "/products/1/combinations", `{"options":[{"name":"Size"}]}`, 400, `needs a 'name' and a 'value'`},
		{"POST", "/products/1/combinations", `{"options":[{"name":"Size","value":"L"}],"price":-1}`, 400, `'price'`},
		{"GET", "/products/1/combinations", "", 200, `"total":1`},
		{"PUT", "/products/1/combinations/1", `{"options":[{"name":"Size","value":"M"}],"quantity":4}`, 200, `{"updateCount":1}`},
		{"GET", "/products/1/combinations/1", "", 200, `{"id":1,"options":[{"name":"Size","value":"M"}],"quantity":4}`},
		{"GET", "/products/1/combinations/2", "", 404, `Product 1 has no combination 2`},
		{"DELETE", "/products/1/combinations/1", "", 200, `{"deleteCount":1}`},
		{"DELETE", "/products/1/combinations/1", "", 404, ``},
		{"POST", "/products", `{"name":"Other","sku":"S-M"}`, 201, ``},
	})
}

func TestOrders(t *testing.T) {
	story(t, store.New(store.Options{}), []step{
		{"POST", "/products", `{"name":"Mug","price":9.5,"quantity":3}`, 201, ``},
		{"POST", "/products/1/combinations", `{"options":[{"name":"Size","value":"XL"}],"price":12,"quantity":1}`, 201, ``},
		{"POST", "/orders", `{"email":"a@b.example","items":[{"productId":1,"quantity":2},{"productId":1,"combinationId":1,"quantity":1}]}`, 201, `{"id":1}`},
		{"GET", "/orders/1", "", 200, `"status":"AWAITING_PAYMENT","total":31,`},
		{"GET", "/products/1", "", 200, `"quantity":1`},
		// No stock is reserved if one item of an order is not available.
		{"POST", "/orders", `{"email":"a@b.example","items":[{"productId":1,"quantity":1},{"productId":1,"quantity":1}]}`, 409, `items[1]: only 1 of product 1 are in stock`},
		{"POST", "/orders", `{"email":"a@b.example","items":[{"productId":1,"quantity":1},{"productId":1,"combinationId":1,"quantity":1}]}`, 409, `OUT_OF_STOCK`},
		{"GET", "/products/1", "", 200, `"quantity":1`},
		{"POST", "/orders", `{"email":"a@b.example","items":[{"productId":9,"quantity":1}]}`, 400, `items[0].productId: there is no product 9`},
		{"POST", "/orders", `{"email":"a@b.example","items":[{"productId":1,"combinationId":9,"quantity":1}]}`, 400, `has no combination 9`},
		{"POST", "/orders", `{"email":"a@b.example","items":[{"productId":1,"quantity":0}]}`, 400, `quantity must be 1 or more`},
		{"POST", "/orders", `{"email":"a@b.example","items":[]}`, 400, `'items'`},
		{"POST", "/orders", `{"email":"nobody","items":[{"productId":1,"quantity":1}]}`, 400, `'email'`},
		{"PUT", "/orders/1", `{"status":"LOST"}`, 400, `must be one of AWAITING_PAYMENT`},
		{"PUT", "/orders/1", `{"status":"PAID"}`, 200, `{"updateCount":1}`},
		{"GET", "/orders?keyword=A@B", "", 200, `"status":"PAID"`},
		{"GET", "/orders/2", "", 404, `Order 2 not found`},
	})
}

func TestStoresAreIndependent(t *testing.T) {
	api := store.New(store.Options{})
	send(api, "POST", "/products", `{"name":"Mug","sku":"M"}`)
	w := exchange(api, "POST", "/api/v3/other/products", `{"name":"Mug","sku":"M"}`, "Authorization", "Bearer t")
	if w.Code != 201 || w.Body.String() != `{"id":1}` {
		t.Errorf("another store: got %d %s", w.Code, w.Body)
	}
}

func TestWhoIsLetIn(t *testing.T) {
	api := store.New(store.Options{Token: "secret"})
	for authorization, want := range map[string]int{"": 401, "Basic secret": 401, "Bearer": 401, "Bearer wrong": 403, "Bearer secret": 200, "bearer secret": 200} {
		if w := exchange(api, "GET", "/api/v3/1/products", "", "Authorization", authorization); w.Code != want {
			t.Errorf("%q: got %d, want %d", authorization, w.Code, want)
		}
	}
}

func TestElsewhere(t *testing.T) {
	api := store.New(store.Options{})
	story(t, api, []step{
		{"GET", "/customers", "", 404, `"errorCode":"NOT_FOUND"`},
		{"DELETE", "/orders", "", 405, `Use one of GET, POST here`},
		{"HEAD", "/products", "", 200, ``},
		{"POST", "/products", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 400, `BAD_BODY`},
	})
	if w := exchange(api, "DELETE", "/api/v3/1/orders", "", "Authorization", "Bearer t"); w.Header().Get("Allow") != "GET, POST" {
		t.Errorf("Allow: %q", w.Header().Get("Allow"))
	}
}

func TestIdempotencyKey(t *testing.T) {
	api := store.New(store.Options{})
	mug, refused := `{"name":"Mug","sku":"M"}`, `{"name":"Mug","price":-1}`
	for _, c := range []struct {
		key, body string
		code      int
		part      string
	}{
		{"a", mug, 201, `{"id":1}`},
		{"a", mug, 201, `{"id":1}`},
		{"a", refused, 422, `KEY_REUSED`},
		{"b", mug, 409, `SKU_EXISTS`},
		{"c", refused, 400, `'price'`},
		{"c", refused, 400, `'price'`},
	} {
		code, body := send(api, "POST", "/products", c.body, "Idempotency-Key", c.key)
		if code != c.code || !strings.Contains(body, c.part) {
			t.Errorf("%s %s: got %d %s, want %d with %s", c.key, c.body, code, body, c.code, c.part)
		}
	}
	story(t, api, []step{
		{"GET", "/products", "", 200, `"total":1,`},
		{"GET", "/ledger?limit=1", "", 200, `"total":6,"count":1,"offset":0,"limit":1,"items":[{"path":"/api/v3/1/products","idempotencyKey":"a","body":"{\"name\"`},
	})
}

func TestOneEffectOfManyAtOnce(t *testing.T) {
	api := store.New(store.Options{})
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			key := fmt.Sprint(i % 2)
			if code, body := send(api, "POST", "/products", `{"name":"Mug `+key+`"}`, "Idempotency-Key", key); code != 201 {
				t.Errorf("got %d %s", code, body)
			}
		})
	}
	all.Wait()
	story(t, api, []step{
		{"GET", "/products", "", 200, `"total":2,`},
		{"GET", "/ledger", "", 200, `"total":40,`},
	})
}
