package store

import (
	"slices"
	"strings"
)

// order is a customer's order. Its total is based on the prices when it was placed.
type order struct {
	ID     int64   `json:"id"`
	Email  string  `json:"email"`
	Status string  `json:"status"`
	Total  float64 `json:"total"`
	Items  []item  `json:"items"`
}

// item is one line of an order.
type item struct {
	ProductID     int64 `json:"productId"`
	CombinationID int64 `json:"combinationId,omitempty"` // 0: the product itself
	Quantity      int   `json:"quantity"`
}

// statuses are the states of an order; a new one has the first.
var statuses = []string{"AWAITING_PAYMENT", "PAID", "SHIPPED", "CANCELLED"}

func (c *call) findOrder() (*order, error) {
	o := c.orders.all[c.id("id")]
	if o == nil {
		return nil, notFound("Order %s not found", c.PathValue("id"))
	}
	return o, nil
}

func (c *call) listOrders() (any, error) {
	keyword := strings.ToLower(c.URL.Query().Get("keyword"))
	return page(c.orders.matching(func(o *order) bool {
		return strings.Contains(strings.ToLower(o.Email), keyword)
	}), c.Request)
}

func (c *call) order() (any, error) { return c.findOrder() }

func (c *call) createOrder() (any, error) {
	var wanted struct {
		Email string `json:"email"`
		Items []item `json:"items"`
	}
	if err := c.decode(&wanted); err != nil {
		return nil, err
	}
	switch {
	case !strings.Contains(wanted.Email, "@"):
		return nil, invalid("Field 'email' must be an address")
	case len(wanted.Items) == 0:
		return nil, invalid("Field 'items' must have at least one item")
	}
	total, err := c.reserve(wanted.Items)
	if err != nil {
		return nil, err
	}
	o := &order{c.orders.last + 1, wanted.Email, statuses[0], total, wanted.Items}
	c.orders.add(o.ID, o)
	return created{o.ID}, nil
}

// reserve removes all items from stock, or none, and returns their total price.
func (s *shop) reserve(items []item) (total float64, err error) {
	left := map[*int]int{}
	for i, it := range items {
		price, stock, err := s.offer(i, it)
		if err != nil {
			return 0, err
		}
		total += price * float64(it.Quantity)
		if stock == nil {
			continue
		}
		if _, seen := left[stock]; !seen {
			left[stock] = *stock
		}
		if left[stock] -= it.Quantity; left[stock] < 0 {
			return 0, conflict("OUT_OF_STOCK", "items[%d]: only %d of product %d are in stock", i, *stock, it.ProductID)
		}
	}
	for stock, n := range left {
		*stock = n
	}
	return total, nil
}

// offer returns the price and stock of an item. A nil stock is unlimited.
func (s *shop) offer(i int, it item) (price float64, stock *int, err error) {
	p := s.products.all[it.ProductID]
	switch {
	case it.Quantity < 1:
		return 0, nil, invalid("items[%d].quantity must be 1 or more", i)
	case p == nil:
		return 0, nil, invalid("items[%d].productId: there is no product %d", i, it.ProductID)
	case it.CombinationID == 0:
		return p.Price, p.Quantity, nil
	}
	v := p.variations.all[it.CombinationID]
	if v == nil {
		return 0, nil, invalid("items[%d].combinationId: product %d has no combination %d", i, p.ID, it.CombinationID)
	}
	if v.Price == nil {
		return p.Price, v.Quantity, nil
	}
	return *v.Price, v.Quantity, nil
}

func (c *call) updateOrder() (any, error) {
	o, err := c.findOrder()
	if err != nil {
		return nil, err
	}
	var change struct {
		Status string `json:"status"`
	}
	if err := c.decode(&change); err != nil {
		return nil, err
	}
	if !slices.Contains(statuses, change.Status) {
		return nil, invalid("Field 'status' must be one of %s", strings.Join(statuses, ", "))
	}
	o.Status = change.Status
	return updated{1}, nil
}
