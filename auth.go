package sheaf

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/internal/api"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/outbound"
)

// The bounds of one question whether a token is let in.
const (
	checkTimeout = 10 * time.Second
	checkAnswer  = 1 << 20 // bytes; what is in it does not matter
	checkConns   = 64      // idle connections kept
)

// gate returns what judges callers' tokens, nil where nobody does, and what ends it.
func (o *Options) gate(guard *outbound.Guard) (judge func(r *http.Request, store, token string) (batch.Owner, error), end func(), err error) {
	if o.AuthCheck == "" {
		return nil, func() {}, nil
	}
	client, err := outbound.New(outbound.Options{
		Template: o.AuthCheck, TLS: o.UpstreamTLS, Guard: guard, Timeout: checkTimeout, MaxAnswer: checkAnswer, MaxConns: checkConns,
		UserAgent: "sheaf/" + Version, Logger: o.Logger,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("auth check: %w", err)
	}
	gate := auth.NewGate(auth.NewCheck(client, checkTimeout, o.Logger), o.TrustedProxies)
	return func(r *http.Request, store, token string) (batch.Owner, error) {
		err := gate.Judge(r.Context(), r.RemoteAddr, r.Header["X-Forwarded-For"], store, token)
		if refusal, ok := errors.AsType[*auth.Refusal](err); ok {
			return batch.Owner{}, &api.Denial{Status: refusal.Status, Reason: refusal.Reason, Wait: refusal.Wait}
		}
		return auth.StoreOwner(store), err
	}, client.Close, nil
}
