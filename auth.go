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
	case o.Auth.CheckURL != "" && o.Auth.KeysFile != "":
		return nil, nothing, errors.New("Auth.CheckURL and Auth.KeysFile are alternatives: set one of them")
	case o.Auth.CheckAnyStore && o.Auth.CheckURL == "":
		return nil, nothing, errors.New("Auth.CheckAnyStore has no effect without Auth.CheckURL")
	case o.Auth.KeysFile != "" && o.Upstream.Passthrough:
		return nil, nothing, errors.New("Upstream.Passthrough does not work with Auth.KeysFile: the upstream does not know the keys")
	case o.Auth.CheckURL != "":
		client, err := outbound.New(outbound.Options{
			Template: o.Auth.CheckURL, TLS: o.Upstream.TLS, Guard: guard, Timeout: checkTimeout, MaxAnswer: checkAnswer, MaxConns: checkConns,
			UserAgent: "sheaf/" + Version, Logger: o.Logger,
		})
		if err != nil {
			return nil, nothing, fmt.Errorf("auth check: %w", err)
		}
		if !strings.Contains(o.Auth.CheckURL, "{storeId}") && !o.Auth.CheckAnyStore {
			client.Close()
			return nil, nothing, errors.New("auth check: the address has no {storeId}, so every valid token would own the batches of every store: " +
				"put {storeId} into its path, or set Auth.CheckAnyStore if all callers may share everything")
		}
		return auth.NewGate(auth.NewCheck(client, checkTimeout, o.Logger), nil, o.Auth.TrustedProxies), client.Close, nil
	case o.Auth.KeysFile != "":
		keys, err := auth.OpenKeys(o.Auth.KeysFile, key)
		if err != nil {
			return nil, nothing, err
		}
		return auth.NewGate(nil, keys, o.Auth.TrustedProxies), nothing, nil
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

// Reload reads Auth.KeysFile, Auth.OperatorKeysFile and Webhooks.SecretFile again. A file that can't
// be used leaves the old content in force, and the error says why.
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
	from := auth.Proxies(o.Auth.TrustedProxies)
	log := audit.NewTo(o.Logger)
	if o.Observe.AuditLog != nil {
		log = audit.New(o.Observe.AuditLog, o.Logger)
	}
	return func(r *http.Request, e api.Event) {
		if o.Observe.AuditLog == nil && !strings.HasPrefix(e.Action, "operator") && !strings.HasPrefix(e.Action, "sign-") {
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
