package sheaf

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/secret"
)

// gate returns what judges the tokens of callers and operators.
func (o *Options) gate(guard *outbound.Guard, key secret.Key) (*auth.Gate, error) {
	if o.Auth.KeysFile != "" && o.Upstream.Passthrough {
		return nil, errors.New("Upstream.Passthrough does not work with Auth.KeysFile: the upstream does not know the keys")
	}
	return auth.Open(auth.Options{
		CheckURL: o.Auth.CheckURL, CheckAnyStore: o.Auth.CheckAnyStore, KeysFile: o.Auth.KeysFile, OperatorKeysFile: o.Auth.OperatorKeysFile,
		TrustedProxies: o.Auth.TrustedProxies, Secret: key,
		TLS: o.Upstream.TLS, Guard: guard, UserAgent: "sheaf/" + Version, Logger: o.Logger,
	})
}

// Reload reads Auth.KeysFile, Auth.OperatorKeysFile and Webhooks.SecretFile again. If a file can't be
// used, its old content stays in effect and the error says why.
func (s *Service) Reload() error {
	err := s.gate.Reload()
	if s.webhooks != nil {
		if e := s.webhooks.Signer.Reload(); e != nil {
			err = errors.Join(err, fmt.Errorf("webhook secret: %w", e))
		}
	}
	return err
}

// Audit logs an event that the API does not see, such as a sign-in to the dashboard. The line goes to
// Observe.AuditLog or, without one, to the service's log. It names the token by the beginning of its
// hash.
func (s *Service) Audit(r *http.Request, action, store, token string, status int) {
	e := audit.Event{Action: action, Store: store, Status: status}
	if token != "" {
		e.Who = batch.OwnerOf(token).Short()
	}
	s.audit.Add(r, e)
}
