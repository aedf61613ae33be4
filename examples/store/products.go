package store

import (
	"fmt"
	"strings"
)

// product is a product for sale.
type product struct {
	ID       int64   `json:"id"`
	Name     string  `json:"name"`
	SKU      string  `json:"sku,omitempty"`
	Price    float64 `json:"price"`
	Quantity *int    `json:"quantity,omitempty"` // in stock; absent: unlimited

	variations collection[*variation]
}

func (p *product) validate() error {
	switch {
	case strings.TrimSpace(p.Name) == "":
		return invalid("Field 'name' is required")
	case p.Price < 0:
		return invalid("Field 'price' must not be negative")
	case p.Quantity != nil && *p.Quantity < 0:
		return invalid("Field 'quantity' must not be negative")
	}
	return nil
}

// findProduct returns the product that the path names.
func (c *call) findProduct() (*product, error) {
	p := c.products.all[c.id("id")]
	if p == nil {
		return nil, notFound("Product %s not found", c.PathValue("id"))
	}
	return p, nil
}

func (c *call) listProducts() (any, error) {
	keyword := strings.ToLower(c.URL.Query().Get("keyword"))
	return page(c.products.matching(func(p *product) bool {
		return strings.Contains(strings.ToLower(p.Name+" "+p.SKU), keyword)
	}), c.Request)
}

func (c *call) product() (any, error) { return c.findProduct() }

func (c *call) createProduct() (any, error) {
	p := &product{}
	if err := c.storeProduct(&product{}, p, c.products.last+1); err != nil {
		return nil, err
	}
	c.products.add(p.ID, p)
	return created{p.ID}, nil
}

func (c *call) replaceProduct() (any, error) { return c.changeProduct(&product{}) }

func (c *call) patchProduct() (any, error) {
	old, err := c.findProduct()
	if err != nil {
		return nil, err
	}
	p := *old
	if p.Quantity != nil {
		p.Quantity = new(*p.Quantity) // so that decoding doesn't change the old product
	}
	return c.changeProduct(&p)
}

// changeProduct replaces the product that the path names with p, changed as the body says.
func (c *call) changeProduct(p *product) (any, error) {
	old, err := c.findProduct()
	if err != nil {
		return nil, err
	}
	if err := c.storeProduct(old, p, old.ID); err != nil {
		return nil, err
	}
	p.variations = old.variations
	c.products.all[p.ID] = p
	return updated{1}, nil
}

// storeProduct decodes the body into p and sets its ID and SKU. If it fails, nothing has changed.
func (c *call) storeProduct(old, p *product, id int64) error {
	if err := c.decode(p); err != nil {
		return err
	}
	p.ID = id
	if err := p.validate(); err != nil {
		return err
	}
	return c.claim(fmt.Sprintf("product %d", id), old.SKU, p.SKU)
}

func (c *call) deleteProduct() (any, error) {
	p, err := c.findProduct()
	if err != nil {
		return nil, err
	}
	delete(c.skus, p.SKU)
	for _, v := range p.variations.all {
		delete(c.skus, v.SKU)
	}
	c.products.remove(p.ID)
	return deleted{1}, nil
}
