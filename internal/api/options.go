package api

import (
	"fmt"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
)

// options reads the options of a new batch (docs/contract.md#options-of-a-batch).
func (c *call) options() (o batch.Options) {
	o.Parallel = c.query.boolean("allowParallelMode", false)
	o.StopOnFailure = c.query.boolean("stopOnFirstFailure", true)
	o.Concurrency = c.query.integer("concurrency", 0, 1, batch.MaxParallel)
	if _, given := c.query.get("retries"); given {
		o.Retries = new(c.query.integer("retries", 0, 0, batch.MaxRetries))
	}
	o.Backoff = parsed(&c.query, "retryBackoff", batch.ParseBackoff)
	o.Success.Codes = parsed(&c.query, "successStatus", batch.ParseCodes)
	o.Success.FailWhen = parsed(&c.query, "failWhen", batch.ParseFailWhen)
	switch {
	case o.Concurrency > 1 && !o.Parallel:
		c.query.wrong("Parameter concurrency can be more than 1 only with allowParallelMode=true.")
	case o.Backoff != batch.Backoff{} && o.Retries == nil && o.StopOnFailure:
		c.query.wrong("Parameter retryBackoff has no effect on a batch that stops at its first failure: add retries, or set stopOnFirstFailure=false.")
	}
	return o
}

// appendOptions appends a batch's options as members of an object. Those that its creator didn't give
// are left out.
func appendOptions(b []byte, o *batch.Options) []byte {
	b = fmt.Appendf(b, `,"parallel":%t,"stopOnFirstFailure":%t`, o.Parallel, o.StopOnFailure)
	if o.Concurrency > 0 {
		b = fmt.Appendf(b, `,"concurrency":%d`, o.Concurrency)
	}
	if o.Retries != nil {
		b = fmt.Appendf(b, `,"retries":%d`, *o.Retries)
	}
	if o.Backoff != (batch.Backoff{}) {
		b = fmt.Appendf(b, `,"retryBackoff":"%s"`, o.Backoff)
	}
	if o.Success.Codes != "" {
		b = fmt.Appendf(b, `,"successStatus":"%s"`, o.Success.Codes)
	}
	if len(o.Success.FailWhen) > 0 {
		b = batch.AppendString(append(b, `,"failWhen":`...), strings.Join(o.Success.FailWhen, ","))
	}
	return b
}
