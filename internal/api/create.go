package api

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// create stores a batch (wire contract, "Create"), or with dryRun only checks it. Everything that can be refused
// without the body is refused before it is read.
func (s *API) create(c *call) error {
	b, err := s.newBatch(c)
	if err != nil {
		return err
	}
	dry, err := c.query.boolean("dryRun", false)
	if err != nil {
		return err
	}
	if err := checkMediaType(c.r.Header); err != nil {
		return err
	}
	body, release, err := s.readBody(c, s.MaxBody)
	defer release()
	if err != nil {
		return err
	}
	body = bytes.TrimPrefix(body, byteOrderMark)
	h := c.hold(s.memory.decodes)
	defer h.free()
	size := int64(len(body))
	if size > freeBody {
		if err := h.need(decodedTimes * size); err != nil {
			return err
		}
	}
	err = s.compute(c, size, func() (err error) {
		if b.Requests, err = batch.Decode(body, b.Options, s.Headers); err != nil {
			return fail(wrongParameter, "%v", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.cut(storedTimes * size)
	if dry {
		c.send(http.StatusOK, []byte(`{"valid":true,"totalRequests":`+strconv.Itoa(len(b.Requests))+`}`))
		return nil
	}
	return s.store(c, b)
}

// noSpace tells of a quota in bytes. What has ended makes room only when it is deleted or
// expires, so that asking again soon is of no use.
func (s *API) noSpace(limit int64) error {
	return &apiError{code: rateLimited, wait: time.Minute, message: fmt.Sprintf(
		"Your batches in this store take up to %d bytes, requests and answers, and this one would not fit in what is left. "+
			"Delete batches whose answers you have read (DELETE with their ticket), or wait until some expire.", limit)}
}

// newBatch returns a batch as its query says, without requests.
func (s *API) newBatch(c *call) (b *storage.NewBatch, err error) {
	b = &storage.NewBatch{Ticket: uuid.New(), Store: c.store, Owner: c.owner, Queue: s.queue(c)}
	if b.Options.Parallel, err = c.query.boolean("allowParallelMode", false); err != nil {
		return nil, err
	}
	if b.Options.StopOnFailure, err = c.query.boolean("stopOnFirstFailure", true); err != nil {
		return nil, err
	}
	if b.DedupKey, err = c.query.dedupKey(); err != nil {
		return nil, err
	}
	if b.GroupID, err = c.query.group(); err != nil {
		return nil, err
	}
	// Checked only here, so that a group that an older version accepted can still be found and stopped.
	if err := batch.CheckName(b.GroupID); err != nil {
		return nil, fail(wrongParameter, "Parameter groupId %v.", err)
	}
	if b.Callback, err = s.callback(c); err != nil {
		return nil, err
	}
	return b, nil
}

// checkMediaType refuses what is not declared to be JSON in UTF-8 (RFC 8259, section
// 8.1). A form that a web page posts to us without asking can't be declared so.
func checkMediaType(h http.Header) error {
	const want = "The header Content-Type must be application/json or text/json"
	switch mediaType, charset := mediaTypeOf(h); {
	case len(h.Values("Content-Type")) > 1:
		return fail(unsupportedMediaType, "%s, and sent once.", want)
	case !isJSONType(mediaType):
		return fail(unsupportedMediaType, "%s.", want)
	case charset != utf8Charset:
		return fail(unsupportedMediaType, "%s, and its charset, if any, utf-8.", want)
	}
	return nil
}

// byteOrderMark is what some programs write before UTF-8 text.
var byteOrderMark = []byte("\ufeff")

// utf8Charset is the name of UTF-8, in lower case.
const utf8Charset = "utf-8"

// mediaTypeOf returns the declared type and charset of a body, in lower case. The charset is UTF-8
// by default. A malformed header has no type.
func mediaTypeOf(h http.Header) (mediaType, charset string) {
	values := h.Values("Content-Type")
	if len(values) != 1 {
		return "", ""
	}
	mediaType, attrs, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", ""
	}
	switch charset = strings.ToLower(attrs["charset"]); charset {
	case "", "utf8": // the latter isn't registered, but many programs write it
		charset = utf8Charset
	}
	return mediaType, charset
}

func isJSONType(mediaType string) bool {
	return mediaType == "application/json" || mediaType == "text/json"
}
