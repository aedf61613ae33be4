// A program that uses the client that oapi-codegen generates from openapi.yaml. It creates, reads,
// searches, cancels and deletes, and prints what described_test.go expects.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"sheafclient/sheafapi"
)

func main() {
	ctx, store, group := context.Background(), "1003", "go"
	client, err := sheafapi.NewClientWithResponses(os.Args[1], sheafapi.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer t0ken")
		return nil
	}))
	check(err)
	stop, id := false, "p"
	created, err := client.CreateBatchWithResponse(ctx, store, &sheafapi.CreateBatchParams{GroupId: &group, StopOnFirstFailure: &stop}, sheafapi.Requests{
		{Id: &id, Method: "POST", Path: "products", Body: map[string]any{"name": "Mug"}},
		{Method: "GET", Path: "missing"},
	})
	check(err)
	ticket := created.JSON200.Ticket.String()

	wait, details := 30, true
	status := &sheafapi.Status{}
	for status.Status == nil || *status.Status != "COMPLETED" {
		answer, err := client.GetBatchWithResponse(ctx, store, &sheafapi.GetBatchParams{Ticket: &ticket, Wait: &wait, Details: &details})
		check(err)
		status = answer.JSON200
	}
	for _, r := range *status.Responses {
		fmt.Print(r.Status, " ")
	}
	completed := sheafapi.BatchStatus("COMPLETED")
	found, err := client.GetBatchWithResponse(ctx, store, &sheafapi.GetBatchParams{Status: &completed})
	check(err)
	for _, b := range *found.JSON200.Items {
		if b.Ticket.String() == ticket {
			fmt.Print("found ")
		}
	}
	canceled, err := client.CancelGroupWithResponse(ctx, store, &sheafapi.CancelGroupParams{GroupId: &group})
	check(err)
	deleted, err := client.DeleteBatchWithResponse(ctx, store, &sheafapi.DeleteBatchParams{TicketId: ticket})
	check(err)
	gone, err := client.GetBatchWithResponse(ctx, store, &sheafapi.GetBatchParams{Ticket: &ticket})
	check(err)
	fmt.Println("canceled", canceled.JSON200.UpdateCount, "deleted", deleted.JSON200.DeleteCount, gone.JSON404.ErrorCode)
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
