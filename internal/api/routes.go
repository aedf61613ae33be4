package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sheafapi/sheaf/internal/auth"
)

// endpoint answers a call, or returns the error to answer with.
type endpoint func(*API, *call) error

// route is a path and its methods. HEAD is served as GET.
type route struct {
	template string   // {storeId} stands for any segment
	path     []string // the segments of template
	open     bool     // needs no token and has no store
	operates bool     // is for operators, and has no store
	methods  map[string]operation
	allow    string // the Allow header
}

// operation is one method of a path.
type operation struct {
	serve   endpoint
	right   string // that the caller needs; unused on paths for operators
	action  string // its name in the audit log; empty: it isn't logged
	params  []string
	hasBody bool // its body is a batch; other bodies are forms with parameters
}

var routes = prepare([]route{
	{template: "/api/v3/{storeId}/batch", methods: map[string]operation{
		http.MethodGet:    {serve: (*API).statusOrSearch, right: auth.Read, action: actionRead, params: slices.Concat(statusParams, searchParams)},
		http.MethodPost:   {serve: (*API).create, right: auth.Create, action: "create", params: createParams, hasBody: true},
		http.MethodDelete: {serve: (*API).delete, right: auth.Cancel, action: "delete", params: ticketParams},
	}},
	{template: "/api/v3/{storeId}/batch/cancel-group", methods: post((*API).cancelGroup, auth.Cancel, "stop", "ticket", "ticketId", "groupId", "escapedJson")},
	{template: "/api/v3/{storeId}/batch/pause", methods: post((*API).pause, auth.Cancel, "pause", ticketParams...)},
	{template: "/api/v3/{storeId}/batch/resume", methods: post((*API).resume, auth.Cancel, "resume", ticketParams...)},
	{template: "/api/v3/{storeId}/batch/retry", methods: post((*API).retry, auth.Create, "retry", "ticket", "ticketId", "inDoubt", "callbackUrl", "dryRun")},
	{template: "/api/v3/{storeId}/batch/group", methods: read((*API).group, "groupId")},
	{template: "/api/v3/{storeId}/batch/search", methods: read((*API).find, filterParams("limit", "after")...)},
	{template: "/api/v3/{storeId}/batch/cancel-matching", methods: post((*API).cancelMatching, auth.Cancel, "stop", filterParams("dryRun")...)},
	{template: "/api/v3/{storeId}/batch/retry-matching", methods: post((*API).retryMatching, auth.Create, "retry-matching", filterParams("dryRun", "repeatInDoubt", "callbackUrl")...)},
	{template: "/api/v3/{storeId}/batch/requests", methods: read((*API).requests, "ticket", "ticketId", "after", "limit", "bodyBytes")},
	{template: "/api/v3/{storeId}/batch/body", methods: read((*API).body, "ticket", "ticketId", "index", "of")},
	{template: "/api/v3/{storeId}/batch/timeline", methods: read((*API).timeline, ticketParams...)},
	{template: "/api/v3/{storeId}/batch/queue", methods: read((*API).queueState)},
	{template: "/api/v3/{storeId}/batch/activity", methods: read((*API).activity)},
	{template: "/api/v3/{storeId}/batch/webhooks", methods: read((*API).deliveries, "ticket", "ticketId", "limit", "offset", "after")},
	{template: "/api/v3/{storeId}/batch/webhooks/resend", methods: post((*API).resend, auth.Create, "resend", ticketParams...)},
	{template: "/operator", operates: true, methods: get((*API).operator, "operator")},
	{template: "/operator/quarantine", operates: true, methods: get((*API).quarantine, "operator/quarantine", "after")},
	{template: "/operator/quarantine/release", operates: true, methods: post((*API).releaseQuarantined, "", "operator/quarantine/release", ticketParams...)},
	{template: "/operator/quarantine/end", operates: true, methods: post((*API).endQuarantined, "", "operator/quarantine/end", ticketParams...)},
	{template: "/healthz", open: true, methods: get((*API).healthz, "")},
	{template: "/readyz", open: true, methods: get((*API).readyz, "")},
})

// filterParams returns the parameters of a filter, followed by others.
func filterParams(others ...string) []string {
	return append([]string{"status", "groupId", "createdFrom", "createdTo", "failed", "inDoubt", "code", "path"}, others...)
}

// get, read and post return the methods of a path that has only one.
func get(serve endpoint, action string, params ...string) map[string]operation {
	return map[string]operation{http.MethodGet: {serve: serve, action: action, params: params}}
}

func read(serve endpoint, params ...string) map[string]operation {
	return map[string]operation{http.MethodGet: {serve: serve, right: auth.Read, action: actionRead, params: params}}
}

func post(serve endpoint, right, action string, params ...string) map[string]operation {
	return map[string]operation{http.MethodPost: {serve: serve, right: right, action: action, params: params}}
}

// knownParams are the parameters of all calls.
var knownParams = func() (all []string) {
	for i := range routes {
		for _, op := range routes[i].methods {
			all = append(all, op.params...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}()

// prepare sets the fields of routes that follow from their templates and methods.
func prepare(routes []route) []route {
	for i := range routes {
		rt := &routes[i]
		rt.path = segments(rt.template)
		var allow []string
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete} {
			if _, ok := rt.operation(method); ok {
				allow = append(allow, method)
			}
		}
		rt.allow = strings.Join(allow, ", ")
	}
	return routes
}

// operation returns the operation of a method.
func (rt *route) operation(method string) (operation, bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	op, ok := rt.methods[method]
	return op, ok
}

func segments(path string) []string { return strings.Split(path, "/") }

// match compares a path segment by segment before it decodes anything, so that an encoded slash is
// part of a segment. It returns the decoded store without checking it.
func (rt *route) match(got []string) (store string, ok bool) {
	want := rt.path
	if len(want) != len(got) {
		return "", false
	}
	for i := range want {
		segment, err := url.PathUnescape(got[i])
		switch {
		case err != nil:
			return "", false
		case want[i] == "{storeId}":
			store = segment
		case want[i] != segment:
			return "", false
		}
	}
	return store, true
}
