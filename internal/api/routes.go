package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// endpoint answers a call, or returns the error to answer with, having sent nothing.
type endpoint func(*API, *call) error

// route is what can be done with one path. HEAD is served as GET.
type route struct {
	template string   // its path; {storeId} stands for any segment
	path     []string // the segments of that
	open     bool     // needs no token and has no store
	creates  bool     // a POST creates a batch
	operates bool     // is for operators, and has no store
	methods  map[string]operation
	allow    string // the Allow header
}

// operation describes one method of a path.
type operation struct {
	serve   endpoint
	params  []string // those that it reads
	hasBody bool     // its body is a batch; other bodies are forms with parameters
}

var routes = cut([]route{
	{template: "/api/v3/{storeId}/batch", allow: "GET, HEAD, POST, DELETE", creates: true, methods: map[string]operation{
		"GET":    {serve: (*API).statusOrSearch, params: slices.Concat(statusParams, searchParams)},
		"POST":   {serve: (*API).create, params: createParams, hasBody: true},
		"DELETE": {serve: (*API).delete, params: ticketParams},
	}},
	{template: "/api/v3/{storeId}/batch/cancel-group", allow: "POST", methods: post((*API).cancelGroup, "ticket", "ticketId", "groupId", "escapedJson")},
	{template: "/api/v3/{storeId}/batch/pause", allow: "POST", methods: post((*API).pause, ticketParams...)},
	{template: "/api/v3/{storeId}/batch/resume", allow: "POST", methods: post((*API).resume, ticketParams...)},
	{template: "/api/v3/{storeId}/batch/retry", allow: "POST", creates: true, methods: post((*API).retry, "ticket", "ticketId", "inDoubt", "callbackUrl", "dryRun")},
	{template: "/api/v3/{storeId}/batch/group", allow: "GET, HEAD", methods: get((*API).group, "groupId")},
	{template: "/api/v3/{storeId}/batch/search", allow: "GET, HEAD", methods: get((*API).find, filterParams("limit", "after")...)},
	{template: "/api/v3/{storeId}/batch/cancel-matching", allow: "POST", methods: post((*API).cancelMatching, filterParams("dryRun")...)},
	{template: "/api/v3/{storeId}/batch/retry-matching", allow: "POST", creates: true, methods: post((*API).retryMatching, filterParams("dryRun", "repeatInDoubt", "callbackUrl")...)},
	{template: "/api/v3/{storeId}/batch/requests", allow: "GET, HEAD", methods: get((*API).requests, "ticket", "ticketId", "after", "limit", "bodyBytes")},
	{template: "/api/v3/{storeId}/batch/body", allow: "GET, HEAD", methods: get((*API).body, "ticket", "ticketId", "index", "of")},
	{template: "/api/v3/{storeId}/batch/timeline", allow: "GET, HEAD", methods: get((*API).timeline, ticketParams...)},
	{template: "/api/v3/{storeId}/batch/queue", allow: "GET, HEAD", methods: get((*API).queueState)},
	{template: "/api/v3/{storeId}/batch/activity", allow: "GET, HEAD", methods: get((*API).activity)},
	{template: "/api/v3/{storeId}/batch/webhooks", allow: "GET, HEAD", methods: get((*API).deliveries, "ticket", "ticketId", "limit", "offset", "after")},
	{template: "/api/v3/{storeId}/batch/webhooks/resend", allow: "POST", creates: true, methods: post((*API).resend, ticketParams...)},
	{template: "/operator", operates: true, allow: "GET, HEAD", methods: get((*API).operator)},
	{template: "/operator/quarantine", operates: true, allow: "GET, HEAD", methods: get((*API).quarantine, "after")},
	{template: "/operator/quarantine/release", operates: true, allow: "POST", methods: post((*API).releaseQuarantined, ticketParams...)},
	{template: "/operator/quarantine/end", operates: true, allow: "POST", methods: post((*API).endQuarantined, ticketParams...)},
	{template: "/healthz", open: true, allow: "GET, HEAD", methods: get((*API).healthz)},
	{template: "/readyz", open: true, allow: "GET, HEAD", methods: get((*API).readyz)},
})

// filterParams returns the parameters of a filter and the given others.
func filterParams(others ...string) []string {
	return append([]string{"status", "groupId", "createdFrom", "createdTo", "failed", "inDoubt", "code", "path"}, others...)
}

// get and post return the methods of a path that has only this one.
func get(serve endpoint, params ...string) map[string]operation {
	return map[string]operation{http.MethodGet: {serve: serve, params: params}}
}

func post(serve endpoint, params ...string) map[string]operation {
	return map[string]operation{http.MethodPost: {serve: serve, params: params}}
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

// cut cuts the templates into segments.
func cut(routes []route) []route {
	for i := range routes {
		routes[i].path = segments(routes[i].template)
	}
	return routes
}

func segments(path string) []string { return strings.Split(path, "/") }

// match compares a path segment by segment, before any decoding, so that an encoded
// slash is part of a segment. The store is returned decoded, and not judged yet.
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

// right returns what a caller has to have the right to.
func (rt *route) right(method string) string {
	switch {
	case method == http.MethodGet:
		return rightRead
	case method == http.MethodPost && rt.creates:
		return rightCreate
	}
	return rightCancel
}

// action is what an audit calls it.
func (rt *route) action(method string) string {
	switch {
	case method == http.MethodGet:
		return "status" // or a search
	case method == http.MethodDelete:
		return "delete"
	case rt.right(method) == rightCreate && len(rt.path) > createDepth:
		return rt.path[len(rt.path)-1] // retry, resend
	case rt.right(method) == rightCreate:
		return "create"
	}
	if last := rt.path[len(rt.path)-1]; last == "pause" || last == "resume" {
		return last
	}
	return "stop"
}

// createDepth is how many segments the path of create has.
const createDepth = 5
