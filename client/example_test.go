package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
)

// exampleServer starts a service in front of an API in which product 2 doesn't exist.
func exampleServer() (url string, end func()) {
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/1003/products/2" {
			http.Error(w, "no such product", http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, `{"updateCount":1}`)
	})
	dir := must(os.MkdirTemp("", "sheaf-example"))
	service := must(sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://api/{storeId}", Handler: api},
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(dir, "batches.db")},
		Logger:   slog.New(slog.DiscardHandler),
	}))
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- service.Run(ctx) }()
	server := httptest.NewServer(service)
	return server.URL, func() {
		cancel()
		<-ran
		server.Close()
		_ = service.Close()
		_ = os.RemoveAll(dir)
	}
}

// Create a batch, wait until it ends, and read the answers.
func Example() {
	server, end := exampleServer()
	defer end()
	ctx := context.Background()

	c, err := client.New(client.Options{Server: server, Store: "1003", Token: "my-token"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ticket, err := c.Create(ctx, []client.Request{
		{ID: "chair", Method: "PUT", Path: "products/1", Body: map[string]any{"price": 49.95}},
		{ID: "table", Method: "PUT", Path: "products/2", Body: map[string]any{"price": 129.00}},
	}, client.CreateOptions{ContinueOnFailure: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := c.Wait(ctx, ticket, nil); err != nil {
		fmt.Println(err)
		return
	}
	for response, err := range c.Results(ctx, ticket, client.GetOptions{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		answer, err := client.Into[struct{ UpdateCount int }](response)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(response.ID, answer.UpdateCount)
	}
	// Output:
	// chair 1
	// request table failed: 404 Not Found
}

// Read the answers as they arrive.
func ExampleClient_Stream() {
	server, end := exampleServer()
	defer end()
	ctx := context.Background()

	c, err := client.New(client.Options{Server: server, Store: "1003", Token: "my-token"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ticket, err := c.Create(ctx, []client.Request{
		{Method: "PUT", Path: "products/1"},
		{Method: "PUT", Path: "products/3"},
	}, client.CreateOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for response, err := range c.Stream(ctx, ticket, client.GetOptions{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(response.Index, response.Status, response.StatusCode)
	}
	// Output:
	// 0 COMPLETED 200
	// 1 COMPLETED 200
}
