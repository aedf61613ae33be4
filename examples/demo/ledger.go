package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// ledger returns how many times a POST with each SKU arrived at the example store.
func ledger(ctx context.Context, store string) (map[string]int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, store+"/ledger", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var page struct {
		Total int `json:"total"`
		Items []struct {
			Body string `json:"body"`
		} `json:"items"`
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the store's ledger: the store answered %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		return nil, fmt.Errorf("read the store's ledger: %w", err)
	}
	if page.Total != len(page.Items) {
		return nil, fmt.Errorf("the store's ledger has %d POSTs, which is more than one page", page.Total)
	}
	arrived := map[string]int{}
	for _, post := range page.Items {
		var product struct {
			SKU string `json:"sku"`
		}
		if err := json.Unmarshal([]byte(post.Body), &product); err != nil {
			return nil, fmt.Errorf("a POST arrived at the store with the body %q: %w", post.Body, err)
		}
		arrived[product.SKU]++
	}
	return arrived, nil
}
