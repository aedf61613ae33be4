package store

import (
	"fmt"
	"slices"
)

// variation is a variant of a product, such as a size or a color.
type variation struct {
	ID       int64    `json:"id"`
	Options  []option `json:"options"`
	SKU      string   `json:"sku,omitempty"`
	Price    *float64 `json:"price,omitempty"`    // absent: the product's price
	Quantity *int     `json:"quantity,omitempty"` // in stock; absent: unlimited
}

type option struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (v *variation) validate() error {
	switch {
	case len(v.Options) == 0:
		return invalid(`Field 'options' is required, such as [{"name":"Size","value":"M"}]`)
	case slices.ContainsFunc(v.Options, func(o option) bool { return o.Name == "" || o.Value == "" }):
		return invalid("Every one of 'options' needs a 'name' and a 'value'")
	case v.Price != nil && *v.Price < 0:
		return invalid("Field 'price' must not be negative")
	case v.Quantity != nil && *v.Quantity < 0:
		return invalid("Field 'quantity' must not be negative")
	}
	return nil
}

// findVariation returns the product and the variation that the path names.
func (c *call) findVariation() (*product, *variation, error) {
	p, err := c.findProduct()
	if err != nil {
		return nil, nil, err
	}
	v := p.variations.all[c.id("variant")]
	if v == nil {
		return nil, nil, notFound("Product %d has no combination %s", p.ID, c.PathValue("variant"))
	}
	return p, v, nil
}

func (c *call) listVariations() (any, error) {
	p, err := c.findProduct()
	if err != nil {
		return nil, err
	}
	return page(p.variations.matching(func(*variation) bool { return true }), c.Request)
}

func (c *call) variation() (any, error) {
	_, v, err := c.findVariation()
	return v, err
}

func (c *call) createVariation() (any, error) {
	p, err := c.findProduct()
	if err != nil {
		return nil, err
	}
	v, err := c.storeVariation(p, &variation{ID: p.variations.last + 1})
	if err != nil {
		return nil, err
	}
	p.variations.add(v.ID, v)
	return created{v.ID}, nil
}

func (c *call) replaceVariation() (any, error) {
	p, old, err := c.findVariation()
	if err != nil {
		return nil, err
	}
	v, err := c.storeVariation(p, old)
	if err != nil {
		return nil, err
	}
	p.variations.all[v.ID] = v
	return updated{1}, nil
}

// storeVariation decodes the body into a variation that replaces old, and sets its ID and SKU. If it
// fails, nothing has changed.
func (c *call) storeVariation(p *product, old *variation) (*variation, error) {
	v := &variation{}
	if err := c.decode(v); err != nil {
		return nil, err
	}
	v.ID = old.ID
	if err := v.validate(); err != nil {
		return nil, err
	}
	for id, other := range p.variations.all {
		if id != v.ID && slices.Equal(other.Options, v.Options) {
			return nil, conflict("COMBINATION_EXISTS", "Combination %d has the same options", id)
		}
	}
	return v, c.claim(fmt.Sprintf("combination %d of product %d", v.ID, p.ID), old.SKU, v.SKU)
}

func (c *call) deleteVariation() (any, error) {
	p, v, err := c.findVariation()
	if err != nil {
		return nil, err
	}
	delete(c.skus, v.SKU)
	p.variations.remove(v.ID)
	return deleted{1}, nil
}
