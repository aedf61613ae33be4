package sheaf

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/database"
)

// ServeHTTP serves the API: /api/v3/{storeId}/batch and everything below it, /operator, /healthz and
// /readyz. It accepts batches whether or not Run is running.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.api.ServeHTTP(w, r) }

// Run runs batches until ctx ends. Then it starts no more requests and waits for those in flight,
// at most Options.ShutdownTimeout, so that their answers are recorded. Requests still in flight
// after that are handled by the next start, as after a crash. Call Run only once.
func (s *Service) Run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { s.api.Run(ctx) })
	if s.webhooks != nil {
		background.Go(func() { s.webhooks.Run(ctx) })
	}
	background.Go(func() { database.Expire(ctx, s.storage, s.keep, s.log) })
	return s.engine.Run(ctx)
}

// Ready returns nil when the database answers and the batches of earlier processes have been resumed.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.engine.Ready(); err != nil {
		return err
	}
	return s.storage.Ping(ctx)
}

// readyz is Ready for /readyz, which anybody may call. It logs the database's error instead of
// returning it.
func (s *Service) readyz(ctx context.Context) error {
	err := s.engine.Ready()
	if err != nil {
		return err
	}
	if err = s.storage.Ping(ctx); err == nil {
		s.unready.Recovered()
		return nil
	}
	if ctx.Err() == nil {
		if n, due := s.unready.Failed(time.Now()); due {
			s.log.Warn("the service is not ready: the database does not work", "error", err, "since_last_log", n)
		}
	}
	return errors.New("the service is not ready; see its log for the reason")
}

// Metrics returns a handler that answers with the service's metrics, in the text format of Prometheus
// or OpenMetrics. It does not check tokens, so serve it only where everybody may read the metrics.
func (s *Service) Metrics() http.Handler { return s.metrics }

// Reload reads Auth.KeysFile, Auth.OperatorKeysFile and Webhooks.SecretFile again. If a file can't
// be used, its old content stays in effect, and the error says why.
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

// Close closes the database and all connections. Call it after Run has returned. Further calls return
// the same error.
func (s *Service) Close() error {
	s.closing.Do(func() {
		for _, f := range slices.Backward(s.closers) {
			s.closed = errors.Join(s.closed, f())
		}
	})
	return s.closed
}

// Migrate brings the schema of a PostgreSQL database up to date, as New does, and returns the schema's
// version. Running services are not interrupted. SQLite doesn't need Migrate, because only one process
// uses the database and brings it up to date when it starts.
func Migrate(ctx context.Context, databaseURL string) (version int64, err error) {
	return database.Migrate(ctx, databaseURL)
}

// DatabaseName returns the URL of a database without its password and parameters, for display.
func DatabaseName(databaseURL string) string { return database.Name(databaseURL) }
