package ratelimit

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

// now is when the answers of these tests come.
var now = time.Date(2026, 11, 30, 4, 0, 0, 0, time.UTC)

// fields makes a header from names and values.
func fields(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func at(d time.Duration, layout string) string { return now.Add(d).Format(layout) }

func unix(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }

func TestRefused(t *testing.T) {
	const unnamed, counted = -1, -2 // a refusal that names no wait, and an answer that isn't a refusal
	for name, tt := range map[string]struct {
		code   int
		header http.Header
		want   time.Duration
	}{
		"nothing":                     {429, nil, unnamed},
		"whole seconds":               {429, fields("Retry-After", "30"), 30 * time.Second},
		"decimal seconds":             {429, fields("Retry-After", "2.0"), 2 * time.Second},
		"a part of a second":          {429, fields("Retry-After", "0.25"), 250 * time.Millisecond},
		"zero":                        {429, fields("Retry-After", "0"), 0},
		"a date":                      {429, fields("Retry-After", at(time.Minute, http.TimeFormat)), time.Minute},
		"a date in RFC 850's format":  {429, fields("Retry-After", at(time.Minute, "Monday, 02-Jan-06 15:04:05 GMT")), time.Minute},
		"a date in asctime's format":  {429, fields("Retry-After", at(time.Minute, time.ANSIC)), time.Minute},
		"a date with UTC":             {429, fields("Retry-After", at(time.Minute, time.RFC1123)), time.Minute},
		"a date with an offset":       {429, fields("Retry-After", now.Add(time.Minute).In(time.FixedZone("", 3600)).Format(time.RFC1123Z)), time.Minute},
		"a date in RFC 3339's format": {429, fields("Retry-After", at(time.Minute, time.RFC3339)), time.Minute},
		"a date by a slow clock":      {429, fields("Retry-After", at(-270*time.Second, http.TimeFormat), "Date", at(-300*time.Second, http.TimeFormat)), 30 * time.Second},
		"a date by a fast clock":      {429, fields("Retry-After", at(330*time.Second, http.TimeFormat), "Date", at(300*time.Second, http.TimeFormat)), 30 * time.Second},
		"a date that has passed":      {429, fields("Retry-After", at(-time.Minute, http.TimeFormat)), unnamed},
		"words":                       {429, fields("Retry-After", "soon"), unnamed},
		"nothing after the colon":     {429, fields("Retry-After", ""), unnamed},
		"an exponent":                 {429, fields("Retry-After", "1e3"), unnamed},
		"a negative number":           {429, fields("Retry-After", "-5"), unnamed},
		"two lines":                   {429, fields("Retry-After", "1", "Retry-After", "4"), 4 * time.Second},
		"two lines joined":            {429, fields("Retry-After", "4, 1"), 4 * time.Second},
		"one of two usable":           {429, fields("Retry-After", "soon", "Retry-After", "4"), 4 * time.Second},
		"far too many seconds":        {429, fields("Retry-After", "99999999999999999999"), Longest},
		"more digits than a float":    {429, fields("Retry-After", string(make9s(400))), Longest},
		"milliseconds":                {429, fields("Retry-After-Ms", "1500"), 1500 * time.Millisecond},
		"the longest of two fields":   {429, fields("Retry-After", "1", "Retry-After-Ms", "1500"), 1500 * time.Millisecond},
		"many milliseconds":           {429, fields("Retry-After-Ms", "5000000000"), 5_000_000 * time.Second},

		"seconds until the reset":         {429, fields("X-RateLimit-Reset", "90"), 90 * time.Second},
		"the reset as a Unix time":        {429, fields("X-RateLimit-Reset", unix(90*time.Second)), 90 * time.Second},
		"the reset in milliseconds":       {429, fields("X-RateLimit-Reset", unix(90*time.Second)+"500"), 90500 * time.Millisecond},
		"the reset with decimals":         {429, fields("X-RateLimit-Reset", unix(90*time.Second)+".5"), 90500 * time.Millisecond},
		"the reset by a slow clock":       {429, fields("X-RateLimit-Reset", unix(-270*time.Second), "Date", at(-300*time.Second, http.TimeFormat)), 30 * time.Second},
		"a reset that has passed":         {429, fields("X-RateLimit-Reset", unix(-time.Second)), unnamed},
		"the reset as a date":             {429, fields("X-RateLimit-Reset", at(time.Minute, time.RFC3339)), time.Minute},
		"the reset as a duration":         {429, fields("X-RateLimit-Remaining-Tokens", "0", "X-RateLimit-Reset-Tokens", "6m0.5s"), 360500 * time.Millisecond},
		"Discord":                         {429, fields("Retry-After", "65", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset-After", "64.57"), 65 * time.Second},
		"X-Rate-Limit":                    {429, fields("X-Rate-Limit-Remaining", "0", "X-Rate-Limit-Reset", unix(15*time.Minute)), 15 * time.Minute},
		"BigCommerce":                     {429, fields("X-Rate-Limit-Requests-Left", "0", "X-Rate-Limit-Time-Reset-Ms", "15000"), 15 * time.Second},
		"Anthropic":                       {429, fields("Anthropic-Ratelimit-Requests-Remaining", "0", "Anthropic-Ratelimit-Requests-Reset", at(time.Minute, time.RFC3339)), time.Minute},
		"RateLimit-Reset":                 {429, fields("RateLimit-Remaining", "0", "RateLimit-Reset", "7"), 7 * time.Second},
		"RateLimit with parameters":       {429, fields("RateLimit-Remaining", "0;w=60", "RateLimit-Reset", "7;w=60"), 7 * time.Second},
		"RateLimit as a dictionary":       {429, fields("RateLimit", "limit=10;w=60, remaining=0, reset=8"), 8 * time.Second},
		"RateLimit as a list":             {429, fields("RateLimit", `"default";r=0;t=30`), 30 * time.Second},
		"RateLimit, several policies":     {429, fields("RateLimit", `"a,b;r=0";r=5;t=900, "day\"";r=0;t=31;pk=:c2E=:`), 31 * time.Second},
		"RateLimit, two lines":            {429, fields("RateLimit", `"a";r=0;t=30`, "RateLimit", `"b";r=0;t=32`), 32 * time.Second},
		"RateLimit without a time":        {429, fields("RateLimit", `"default";r=0`), unnamed},
		"RateLimit that can't be read":    {429, fields("RateLimit", `";;=,"r=0;;t`), unnamed},
		"the longest of many":             {429, fields("Retry-After", "5", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "6", "RateLimit", `"x";r=0;t=4`), 6 * time.Second},
		"the reset of another limit":      {429, fields("X-RateLimit-Remaining", "4990", "X-RateLimit-Reset", unix(50*time.Minute)), unnamed},
		"a secondary limit":               {403, fields("Retry-After", "60", "X-RateLimit-Remaining", "4990", "X-RateLimit-Reset", unix(50*time.Minute)), time.Minute},
		"403":                             {403, nil, counted},
		"403 with Retry-After":            {403, fields("Retry-After", "3"), 3 * time.Second},
		"403 with an unusable value":      {403, fields("Retry-After", "soon"), counted},
		"403, none remain":                {403, fields("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", unix(time.Minute)), time.Minute},
		"403, none remain, no reset":      {403, fields("X-RateLimit-Remaining", "0"), unnamed},
		"403, some remain":                {403, fields("X-RateLimit-Remaining", "7", "X-RateLimit-Reset", unix(time.Minute)), counted},
		"403 with a reset, but no count":  {403, fields("X-RateLimit-Reset", unix(time.Minute)), counted},
		"503":                             {503, nil, counted},
		"503 with Retry-After":            {503, fields("Retry-After", "3"), 3 * time.Second},
		"503, none remain":                {503, fields("RateLimit", `"default";r=0;t=30`), 30 * time.Second},
		"500 with Retry-After":            {500, fields("Retry-After", "3"), counted},
		"202 with Retry-After":            {202, fields("Retry-After", "3"), counted},
		"301 with Retry-After":            {301, fields("Retry-After", "3"), counted},
		"200, none remain":                {200, fields("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"), counted},
		"a count below zero, with a time": {429, fields("X-RateLimit-Remaining", "-1", "X-RateLimit-Reset", "9"), 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r, refused := Refused(tt.code, tt.header, now)
			want := Refusal{max(tt.want, 0), tt.want >= 0}
			if refused != (tt.want != counted) || refused && r != want {
				t.Errorf("got %+v, %v; want %v", r, refused, want)
			}
		})
	}
}

// make9s returns a number of n digits.
func make9s(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = '9'
	}
	return out
}

func TestExhausted(t *testing.T) {
	for name, tt := range map[string]struct {
		header http.Header
		want   time.Duration
	}{
		"nothing":                  {nil, 0},
		"some remain":              {fields("X-RateLimit-Remaining", "1", "X-RateLimit-Reset", "30"), 0},
		"none remain":              {fields("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "30"), 30 * time.Second},
		"a decimal count":          {fields("X-RateLimit-Remaining", "0.0", "X-RateLimit-Reset", "30"), 30 * time.Second},
		"half a request remains":   {fields("X-RateLimit-Remaining", "0.5", "X-RateLimit-Reset", "30"), 30 * time.Second},
		"a lower count second":     {fields("X-RateLimit-Remaining", "3, 0", "X-RateLimit-Reset", "30"), 30 * time.Second},
		"no limit":                 {fields("X-RateLimit-Remaining", "-1", "X-RateLimit-Reset", "30"), 0},
		"no count":                 {fields("X-RateLimit-Reset", "30"), 0},
		"no reset":                 {fields("X-RateLimit-Remaining", "0"), 0},
		"a reset that has passed":  {fields("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", unix(-time.Second)), 0},
		"Retry-After alone":        {fields("Retry-After", "30"), 0},
		"an epoch by another hour": {fields("X-Rate-Limit-Remaining", "0", "X-Rate-Limit-Reset", unix(time.Hour), "Date", at(59*time.Minute, http.TimeFormat)), time.Minute},
		"the list form":            {fields("RateLimit", `"default";r=0;t=30`), 30 * time.Second},
		"the list form, some":      {fields("RateLimit", `"default";r=1;t=30`), 0},
		"the dictionary form":      {fields("RateLimit", `limit=5, remaining=0, reset=30`), 30 * time.Second},
		"one of two quotas":        {fields("X-RateLimit-Remaining-Requests", "0", "X-RateLimit-Reset-Requests", "120ms", "X-RateLimit-Remaining-Tokens", "9", "X-RateLimit-Reset-Tokens", "6m"), 120 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Exhausted(tt.header, now); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// FuzzRead checks that no header makes a wait that is negative or longer than Longest, and that a
// refusal without a named wait has none.
func FuzzRead(f *testing.F) {
	f.Add("30", "0", "1790000000", `"a";r=0;t=30`, "Mon, 30 Nov 2026 04:00:00 GMT")
	f.Add("Mon, 30 Nov 2026 04:01:00 UTC", "4, 0;w=3", "6m0s", "limit=1, remaining=0, reset=5", "")
	f.Add("9999999999999999999999", "-1", "253402300800000", `"\";r=0`, "x")
	f.Add(".", "0.", "-1ms", `r=0;t=1;r=;t=;"`, "Thu, 01 Jan 0001 00:00:00 GMT")
	f.Fuzz(func(t *testing.T, after, left, reset, field, date string) {
		h := fields("Retry-After", after, "Retry-After-Ms", after, "X-RateLimit-Remaining", left, "X-RateLimit-Reset", reset,
			"X-Rate-Limit-Requests-Left", left, "X-Rate-Limit-Time-Reset-Ms", reset, "RateLimit", field, "Date", date)
		if wait := Exhausted(h, now); wait < 0 || wait > Longest {
			t.Errorf("Exhausted: %v", wait)
		}
		for _, code := range []int{200, 403, 429, 503} {
			r, refused := Refused(code, h, now)
			if r.Wait < 0 || r.Wait > Longest || !r.Named && r.Wait != 0 || code == 429 && !refused || code == 200 && refused {
				t.Errorf("Refused(%d): %+v, %v", code, r, refused)
			}
		}
	})
}
