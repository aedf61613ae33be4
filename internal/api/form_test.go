package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
)

const formType = "application/x-www-form-urlencoded"

// postForm sends a body of a media type to a call. If chunked is set, it sends no Content-Length.
func (w *world) postForm(target, mediaType, body string, chunked bool) response {
	w.t.Helper()
	r := w.request("POST", target, strings.NewReader(body))
	if r.Header.Set("Content-Type", mediaType); mediaType == "" {
		r.Header.Del("Content-Type")
	}
	if chunked {
		r.ContentLength = -1
	}
	return w.send(r)
}

// TestForm: every POST except a create accepts its parameters in a form and in the query.
func TestForm(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.CheckCallback = func(string) error { return nil } })
	w.api.AuthorizeOperator = func(*http.Request, string) error { return nil }
	ended := w.create("", 1)
	w.record(w.claim(), done(0, 404, ""))
	w.finish(w.claim(), "")
	open, another := w.create("?groupId=caf%C3%A9+%26+co", 1), w.create("", 1)
	for _, tt := range []struct{ call, form, want string }{
		{base + "/pause", "ticket=" + open, `{"updateCount":1}`},
		{base + "/resume", "ticketId=" + open, `{"updateCount":1}`},
		{base + "/cancel-matching", "dryRun=true&groupId=caf%C3%A9+%26%20co", `{"matched":1}`},
		{base + "/cancel-group", "groupId=caf%C3%A9+%26+co", `{"updateCount":1}`},
		{base + "/cancel-group", "ticketId=" + another, `{"updateCount":1}`},
		{base + "/retry-matching", "dryRun=true&code=404", `{"matched":1,`},
		{base + "/retry", "ticket=" + ended + "&callbackUrl=https%3A%2F%2Fexample.com", `{"ticket":"`},
		{base + "/webhooks/resend", "ticket=" + open, `"BATCH_NOT_FOUND"`},
		{"/operator/quarantine/release", "ticket=" + open, `"BATCH_NOT_FOUND"`},
		{"/operator/quarantine/end", "ticketId=" + open, `"BATCH_NOT_FOUND"`},
	} {
		if a := w.postForm(tt.call, formType, tt.form, false); !strings.Contains(a.body, tt.want) {
			t.Errorf("%s %s: %d %s, want %s", tt.call, tt.form, a.status, a.body, tt.want)
		}
	}
}

// TestFormTypes: the type of a form may be in upper case and have parameters. Its charset may be
// any that clients send. Its parameters are added to those of the query.
func TestFormTypes(t *testing.T) {
	w := newWorld(t, nil)
	const stopped = `{"updateCount":1}`
	for _, tt := range []struct {
		query, mediaType, body string
		chunked                bool
	}{
		{"", "Application/X-WWW-Form-URLEncoded; Charset=UTF-8", "groupId=caf%C3%A9", false},
		{"", formType + ";charset=utf8", "groupId=caf%C3%A9", true},
		{"", formType + `;charset="utf-8"; x=y`, "\ufeffgroupId=caf%C3%A9\r\n", false},
		{"", formType + "; charset=ISO-8859-1", "groupId=caf%E9", false},
		{"?groupId=caf%C3%A9", formType, "groupId=caf%C3%A9&unknown=x&unknown=y", false},
		{"?groupId=caf%C3%A9", formType, "escapedJson=true", true},
		{"?groupId=caf%C3%A9", formType, "", true},
		{"?groupId=caf%C3%A9", "application/json", "", false},
		{"?groupId=caf%C3%A9", "application/json", "{}", false},
		{"?groupId=caf%C3%A9", "application/json", "null", true},
		{"?groupId=caf%C3%A9", "", "", true},
	} {
		w.create("?groupId=caf%C3%A9", 1)
		if a := w.postForm(base+"/cancel-group"+tt.query, tt.mediaType, tt.body, tt.chunked); a.body != stopped {
			t.Errorf("%s %s %q: %d %s", tt.query, tt.mediaType, tt.body, a.status, a.body)
		}
	}
	w.create("?groupId=g", 1)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("groupId=g"))
	_ = z.Close()
	r := w.request("POST", base+"/cancel-group", &zipped)
	r.Header.Set("Content-Type", formType)
	r.Header.Set("Content-Encoding", "gzip")
	if a := w.send(r); a.body != stopped {
		t.Errorf("compressed: %d %s", a.status, a.body)
	}
}

// TestFormRefused: a body that can't be read as parameters is refused, and nothing changes. If the
// ticket in it were ignored, a call would pause the whole queue.
func TestFormRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.create("?groupId=g", 1)
	for _, tt := range []struct {
		query, mediaType, body string
		status                 int
		says                   string
	}{
		{"?groupId=g", formType, "groupId=h", 400, "groupId"},
		{"", formType, "groupId=g&groupId=h", 400, "groupId"},
		{"", formType, "groupId=%zz", 400, "malformed"},
		{"", formType, "groupId=g;x", 400, "malformed"},
		{"", formType, "groupId=%FF", 400, "groupId"},
		{"", formType, "groupId=g&limit=1", 400, "limit"},
		{"", formType, "groupId=g&escapedJson=maybe", 400, "escapedJson"},
		{"?groupId=g", formType, "x=" + strings.Repeat("a", maxForm), 413, "16384"},
		{"?groupId=g", formType, `{"groupId":"g"}`, 415, "form"},
		{"?groupId=g", formType + ";charset=utf-16", "groupId=g", 415, "charset"},
		{"?groupId=g", "application/json", `{"groupId":"g"}`, 415, "form"},
		{"?groupId=g", "application/json", `[` + strings.Repeat(" ", maxForm) + `]`, 415, "form"},
		{"?groupId=g", "multipart/form-data; boundary=x", "--x--", 415, "form"},
		{"?groupId=g", "text/plain", "groupId=g", 415, "form"},
		{"?groupId=g", "", "groupId=g", 415, "form"},
	} {
		for _, chunked := range []bool{false, true} {
			a := w.postForm(base+"/cancel-group"+tt.query, tt.mediaType, tt.body, chunked)
			if a.status != tt.status || !strings.Contains(a.body, tt.says) || a.code(t) == "" {
				t.Errorf("%s %s %.40q: %d %s, want %d", tt.query, tt.mediaType, tt.body, a.status, a.body, tt.status)
			}
		}
	}
	if a := w.postForm(base+"/pause", "application/json", `{"ticket":"x"}`, false); a.status != 415 {
		t.Errorf("pause: %d %s", a.status, a.body)
	}
	q, err := w.node.Queue(context.Background(), (&call{Call: reply.Call{Store: "12345", Owner: batch.OwnerOf(token)}}).queue())
	if err != nil || q.Paused || q.Open != 1 {
		t.Errorf("something has changed: %+v, %v", q, err)
	}
	if a := w.postForm(base, formType, "groupId=g", false); a.status != 415 {
		t.Errorf("a create with a form: %d %s", a.status, a.body)
	}
}
