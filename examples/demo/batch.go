package main

import (
	"fmt"

	"github.com/sheafapi/sheaf/client"
)

// request is a request of a batch with the expected status code.
type request struct {
	client.Request
	want int
}

// wire returns the requests without their expected status codes, as the client sends them.
func wire(batch []request) (out []client.Request) {
	for _, r := range batch {
		out = append(out, r.Request)
	}
	return out
}

// plan builds a batch.
type plan []request

func (p *plan) add(want int, id, method, path string, body any) {
	*p = append(*p, request{client.Request{ID: id, Method: method, Path: path, Body: body}, want})
}

type fields map[string]any

// catalogBatch is the first batch. It fills an empty store with products and orders, and contains
// typical mistakes.
func catalogBatch() []request {
	var p plan
	names := []string{
		"Mug", "Teapot", "Kettle", "Tray", "Spoon", "Bowl", "Plate", "Jug", "Strainer", "Tin",
		"Caddy", "Cosy", "Saucer", "Whisk", "Scale", "Timer", "Filter", "Glass",
	}
	for i, name := range names { // products 1 to 18
		p.add(201, fmt.Sprintf("product-%02d", i+1), "POST", "/products",
			fields{"name": name, "sku": fmt.Sprintf("TEA-%02d", i+1), "price": 4.5 + float64(i), "quantity": 10 + i})
	}
	p.add(409, "product-twice", "POST", "/products", fields{"name": "Mug", "sku": "TEA-01", "price": 4.5})
	p.add(400, "product-price", "POST", "/products", fields{"name": "Napkin", "price": -2})
	p.add(400, "product-color", "POST", "/products", fields{"name": "Napkin", "color": "red"})
	p.add(400, "product-nameless", "POST", "/products", fields{"price": 3})

	for product := 1; product <= 4; product++ {
		for _, size := range []string{"S", "M", "L"} {
			p.add(201, fmt.Sprintf("variation-%d%s", product, size), "POST", fmt.Sprintf("/products/%d/combinations", product),
				fields{"options": []fields{{"name": "Size", "value": size}}, "sku": fmt.Sprintf("TEA-%02d-%s", product, size), "quantity": 5})
		}
	}
	p.add(404, "variation-of-none", "POST", "/products/999/combinations", fields{"options": []fields{{"name": "Size", "value": "S"}}})

	for product := 5; product <= 10; product++ { // orders 1 to 6
		p.add(201, fmt.Sprintf("order-%d", product-4), "POST", "/orders", sale(product, 2))
	}
	p.add(409, "order-too-many", "POST", "/orders", sale(5, 500))
	p.add(400, "order-of-none", "POST", "/orders", sale(999, 1))

	p.add(200, "paid-1", "PUT", "/orders/1", fields{"status": "PAID"})
	p.add(200, "paid-2", "PUT", "/orders/2", fields{"status": "PAID"})
	p.add(400, "paid-3", "PUT", "/orders/3", fields{"status": "PIAD"})
	p.add(200, "new-price", "PUT", "/products/1", fields{"name": "Mug", "sku": "TEA-01", "price": 6.75})
	p.add(200, "new-stock", "PUT", "/products/2", fields{"name": "Teapot", "sku": "TEA-02", "price": 19, "quantity": 40})
	p.add(200, "read-mug", "GET", "/products/1", nil)
	p.add(200, "read-sizes", "GET", "/products/1/combinations", nil)
	p.add(200, "read-paid", "GET", "/orders/1", nil)
	p.add(404, "read-missing", "GET", "/products/999", nil)
	p.add(200, "search", "GET", "/products?keyword=tea&limit=3", nil)
	p.add(200, "list", "GET", "/orders?limit=2&offset=2", nil)
	p.add(200, "remove-size", "DELETE", "/products/4/combinations/3", nil)
	p.add(200, "remove-tray", "DELETE", "/products/4", nil)
	p.add(404, "read-removed", "GET", "/products/4", nil)
	p.add(404, "remove-missing", "DELETE", "/products/999", nil)
	p.add(200, "how-many", "GET", "/products?limit=1", nil)
	p.add(201, "order-7", "POST", "/orders", sale(1, 3))
	return p
}

// linkedBatch is the second batch. It creates a product, and variations that take the product's ID from
// the answer to its creation.
func linkedBatch() []request {
	var p plan
	p.add(201, "apron", "POST", "/products", fields{"name": "Apron", "sku": "APR", "price": 24.5})
	sizes := []string{"S", "M", "L", "XL"}
	for _, size := range sizes {
		p.add(201, "apron-"+size, "POST", "/products/{id}/combinations",
			fields{"options": []fields{{"name": "Size", "value": size}}, "sku": "APR-" + size, "quantity": 5})
	}
	p.add(200, "read-apron", "GET", "/products/{id}", nil)
	p.add(200, "read-sizes", "GET", "/products/{id}/combinations", nil)
	for i := 1; i < len(p); i++ {
		p[i].Refs = map[string]string{"path:id": "apron#/id"}
	}
	return p
}

func sale(product, quantity int) fields {
	return fields{"email": "ada@example.com", "items": []fields{{"productId": product, "quantity": quantity}}}
}

// crashBatch is the third batch: n POSTs, each of which must arrive once. The SKU of each is its ID.
func crashBatch(n int) []request {
	var p plan
	for i := range n {
		id := fmt.Sprintf("lamp-%02d", i+1)
		p.add(201, id, "POST", "/products", fields{"name": "Lamp", "sku": id, "price": 30})
	}
	return p
}
