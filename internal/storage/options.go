package storage

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
)

// packedOptions is the stored form of those options of a batch that have no columns of their own, in
// JSON. Batches without such options have the empty text, which older versions write too. A version
// ignores members that it doesn't know.
type packedOptions struct {
	Concurrency int         `json:"c,omitempty"`
	Retries     *int        `json:"r,omitempty"`
	Backoff     string      `json:"b,omitempty"`
	Codes       batch.Codes `json:"s,omitempty"`
	FailWhen    string      `json:"f,omitempty"`
}

// PackOptions returns the stored form of a batch's options, without Parallel and StopOnFailure.
func PackOptions(o *batch.Options) string {
	p := packedOptions{o.Concurrency, o.Retries, "", o.Success.Codes, strings.Join(o.Success.FailWhen, ",")}
	if o.Backoff != (batch.Backoff{}) {
		p.Backoff = o.Backoff.String()
	}
	if p == (packedOptions{}) {
		return ""
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) //nolint:forbidigo // strings and numbers can always be encoded
	}
	return string(text)
}

// UnpackOptions sets the options that PackOptions has stored. It returns ErrDamaged for anything else.
func UnpackOptions(text string, o *batch.Options) error {
	if text == "" {
		return nil
	}
	var p packedOptions
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return fmt.Errorf("%w: the options %w", ErrDamaged, err)
	}
	o.Concurrency, o.Retries = p.Concurrency, p.Retries
	var err error
	if p.Backoff != "" {
		o.Backoff, err = batch.ParseBackoff(p.Backoff)
	}
	if err == nil && p.Codes != "" {
		o.Success.Codes, err = batch.ParseCodes(string(p.Codes))
	}
	if err == nil && p.FailWhen != "" {
		o.Success.FailWhen, err = batch.ParseFailWhen(p.FailWhen)
	}
	if err != nil || p.Concurrency < 0 || p.Concurrency > batch.MaxParallel || p.Retries != nil && (*p.Retries < 0 || *p.Retries > batch.MaxRetries) {
		return fmt.Errorf("%w: the options are out of range", ErrDamaged)
	}
	return nil
}
