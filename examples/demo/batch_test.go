package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/sheafapi/sheaf/examples/store"
)

// The expected answers of the first batch are the answers that the store sends to the same requests.
func TestPlanAgreesWithStore(t *testing.T) {
	api := store.New(store.Options{})
	ids := map[string]bool{}
	for _, r := range catalogBatch() {
		body, err := json.Marshal(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		asked := httptest.NewRequest(r.Method, "/api/v3/1"+r.Path, bytes.NewReader(body))
		asked.Header.Set("Authorization", "Bearer t")
		w := httptest.NewRecorder()
		api.ServeHTTP(w, asked)
		if w.Code != r.want {
			t.Errorf("%s: got %d %s, want %d", r.ID, w.Code, w.Body, r.want)
		}
		if ids[r.ID] {
			t.Errorf("%s: the id is not unique", r.ID)
		}
		ids[r.ID] = true
	}
	if len(ids) < 55 || len(ids) > 65 {
		t.Errorf("%d requests, want about sixty", len(ids))
	}
}
