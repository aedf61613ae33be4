package sheaf

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/api"
	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/secret"
)

// The bounds of one question whether a token is let in.
const (
	checkTimeout = 10 * time.Second
	checkAnswer  = 1 << 20 // bytes; what is in it does not matter
	checkConns   = 64      // idle connections kept
)

// gate returns what judges callers' tokens, nil where nobody does, and what ends it.
func (o *Options) gate(guard *outbound.Guard, key secret.Key) (g *auth.Gate, end func(), err error) {
	nothing := func() {}
	switch {
	case o.AuthCheck != "" && o.AuthKeys != "":
		return nil, nothing, errors.New("tokens are judged by AuthCheck or by AuthKeys, not by both")
	case o.AuthCheckAnyStore && o.AuthCheck == "":
		return nil, nothing, errors.New("AuthCheckAnyStore is about AuthCheck, which is not set")
	case o.AuthKeys != "" && o.Passthrough:
		return nil, nothing, errors.New("with AuthKeys nothing can be passed through: a call would go to the upstream with a key that it does not know")
	case o.AuthCheck != "":
		client, err := outbound.New(outbound.Options{
			Template: o.AuthCheck, TLS: o.UpstreamTLS, Guard: guard, Timeout: checkTimeout, MaxAnswer: checkAnswer, MaxConns: checkConns,
			UserAgent: "sheaf/" + Version, Logger: o.Logger,
		})
		if err != nil {
			return nil, nothing, fmt.Errorf("auth check: %w", err)
		}
		if !strings.Contains(o.AuthCheck, "{storeId}") && !o.AuthCheckAnyStore {
			client.Close()
			return nil, nothing, errors.New("auth check: the address has no {storeId}, so every valid token would own the batches of every store: " +
				"put {storeId} into its path, or set AuthCheckAnyStore if all callers may share everything")
		}
		return auth.NewGate(auth.NewCheck(client, checkTimeout, o.Logger), nil, o.TrustedProxies), client.Close, nil
	case o.AuthKeys != "":
		keys, err := auth.OpenKeys(o.AuthKeys, key)
		if err != nil {
			return nil, nothing, err
		}
		return auth.NewGate(nil, keys, o.TrustedProxies), nothing, nil
	}
	return nil, nothing, nil
}

// authorize returns what the API asks about tokens; nil where nobody judges them.
func authorize(g *auth.Gate) func(r *http.Request, store, token, right string) (api.Caller, error) {
	if g == nil {
		return nil
	}
	return func(r *http.Request, store, token, right string) (api.Caller, error) {
		in, err := g.Judge(r.Context(), auth.Call{
			Remote: r.RemoteAddr, ForwardedFor: r.Header["X-Forwarded-For"], Store: store, Token: token, Right: right,
		})
		return api.Caller{Owner: auth.StoreOwner(store), Token: in.Credential, Name: in.Name}, denial(err)
	}
}

// Reload reads the files of AuthKeys, OperatorKeys and WebhookSecretFile again. What of them can't be used
// stays as it was, and the error says why.
func (s *Service) Reload() (err error) {
	for _, gate := range s.gates {
		err = errors.Join(err, gate.Reload())
	}
	if s.webhooks != nil {
		if e := s.webhooks.Signer.Reload(); e != nil {
			err = errors.Join(err, fmt.Errorf("webhook secret: %w", e))
		}
	}
	return err
}

// audit returns the log to which the API reports calls. Without an audit log, lines about
// operators and sign-ins go to the service's own log.
func (o *Options) audit() func(r *http.Request, e api.Event) {
	from := auth.Proxies(o.TrustedProxies)
	log := audit.NewTo(o.Logger)
	if o.AuditLog != nil {
		log = audit.New(o.AuditLog, o.Logger)
	}
	return func(r *http.Request, e api.Event) {
		if o.AuditLog == nil && !strings.HasPrefix(e.Action, "operator") && !strings.HasPrefix(e.Action, "sign-") {
			return
		}
		log.Add(audit.Event{
			Action: e.Action, Store: e.Store, Who: e.Who, Address: from.From(r.RemoteAddr, r.Header["X-Forwarded-For"]),
			Ticket: e.Ticket, Group: e.Group, Status: e.Status,
		})
	}
}

// Audit logs events that the API does not see: sign-ins to the dashboard. The line goes to the
// audit log, or to the service's log if there is none. It names the token by the beginning of
// its hash.
func (s *Service) Audit(r *http.Request, action, store, token string, status int) {
	e := api.Event{Action: action, Store: store, Status: status}
	if token != "" {
		e.Who = batch.OwnerOf(token).Short()
	}
	s.audit(r, e)
}
