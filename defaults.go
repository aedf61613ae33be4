package sheaf

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/telemetry"
)

// complete fills in the defaults and returns an error if an option is invalid.
func (o *Options) complete() error {
	fill(&o.Database.URL, "sqlite:sheaf.db")
	fill(&o.Upstream.Timeout, 30*time.Second)
	fill(&o.Upstream.Success, "2xx")
	fill(&o.Retries.Limit, new(5))
	fill(&o.Retries.Interval, 3*time.Second)
	fill(&o.Retries.OutageLimit, new(time.Hour))
	fill(&o.Retries.ThrottleLimit, 20*time.Minute)
	fill(&o.Limits.MaxBody, batch.DefaultMaxBody)
	fill(&o.Limits.MaxAnswer, 5<<20)
	fill(&o.Limits.MaxQueued, new(10_000))
	fill(&o.Database.Retention, 7*24*time.Hour)
	fill(&o.Limits.StoresAtOnce, 4096)
	fill(&o.Limits.MaxOutbound, 1024)
	fill(&o.ShutdownTimeout, 30*time.Second)
	if o.Observe.StoreClass == nil {
		o.Observe.StoreClass = func(string) string { return telemetry.EveryStore }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	l := &o.Limits
	switch {
	case o.Upstream.URL == "":
		return errors.New("an upstream is required, such as http://127.0.0.1:9000/api/v3/{storeId}")
	case o.Database.Retention < time.Hour:
		return fmt.Errorf("retention is %v but must be at least 1h, because tickets and deduplication keys must stay valid that long", o.Database.Retention)
	case o.Upstream.Timeout < 0 || o.Retries.Interval < 0 || *o.Retries.OutageLimit < 0 || o.Retries.ThrottleLimit < 0 || o.ShutdownTimeout < 0:
		return errors.New("a duration can't be negative")
	case l.MaxBody < 0 || l.MaxAnswer < 0 || *l.MaxQueued < 0 || l.MaxStored < 0 || l.MaxDatabase < 0 || l.StoresAtOnce < 0 || l.MaxOutbound < 0 || *o.Retries.Limit < 0:
		return errors.New("a limit can't be negative")
	case o.Upstream.Rate != Rate{} && !o.Upstream.Rate.Valid():
		return fmt.Errorf("a rate of %d in %v is out of range: it must be between 1 in 24h and 1,000,000 in 1s", o.Upstream.Rate.N, o.Upstream.Rate.Per)
	}
	if _, err := batch.ParseCodes(o.Upstream.Success); err != nil {
		return fmt.Errorf("Success %w", err)
	}
	if err := batch.CheckFailWhen(o.Upstream.FailWhen); err != nil {
		return fmt.Errorf("FailWhen %w", err)
	}
	return checkLimits(o.Upstream.Limits)
}

// maxRouteLimits keeps the search for the limits of a request short.
const maxRouteLimits = 100

func checkLimits(limits []RouteLimit) error {
	if len(limits) > maxRouteLimits {
		return fmt.Errorf("there are %d limits, but at most %d are possible", len(limits), maxRouteLimits)
	}
	type identity struct {
		match string
		per   Scope
	}
	seen := map[identity]bool{}
	for i := range limits {
		l := &limits[i]
		if err := l.Check(); err != nil {
			return err
		}
		id := identity{l.Match, l.Per}
		if seen[id] {
			return fmt.Errorf("the limit %q is given twice for the same scope", l.Match)
		}
		seen[id] = true
	}
	return nil
}

// Check returns an error that says what is wrong with the limit.
func (l *RouteLimit) Check() error {
	method, path, _ := strings.Cut(l.Match, " ")
	switch {
	case method != "*" && !slices.Contains(batch.Methods, method) || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " ?#"):
		return fmt.Errorf("match is %q but must be a method (%s, or * for any) and a path, such as GET /orders*", l.Match, strings.Join(batch.Methods, ", "))
	case l.Rate == Rate{} && l.Concurrency == 0:
		return fmt.Errorf("the limit %q needs a rate or a concurrency", l.Match)
	case l.Rate != Rate{} && !l.Rate.Valid():
		return fmt.Errorf("the limit %q has a rate of %d in %v, but a rate must be between 1 in 24h and 1,000,000 in 1s", l.Match, l.Rate.N, l.Rate.Per)
	case l.Concurrency < 0:
		return fmt.Errorf("the limit %q has a negative concurrency", l.Match)
	case l.Per > PerAll:
		return fmt.Errorf("the limit %q has an unknown scope: %d", l.Match, l.Per)
	}
	return nil
}

// routeLimits returns the limits for the governor.
func (u *Upstream) routeLimits() []governor.RouteLimit {
	out := make([]governor.RouteLimit, len(u.Limits))
	for i, l := range u.Limits {
		method, path, _ := strings.Cut(l.Match, " ")
		out[i] = governor.RouteLimit{Method: method, Path: path, Rate: governor.Rate(l.Rate), Concurrency: l.Concurrency, Per: governor.Scope(l.Per)}
	}
	return out
}

// fill sets a zero value to its default.
func fill[T comparable](v *T, byDefault T) {
	var zero T
	if *v == zero {
		*v = byDefault
	}
}
