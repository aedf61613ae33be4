package api

import (
	"context"
	"net/http"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// readyTimeout limits the check behind /readyz. A database that takes longer to answer counts as
// unreachable.
const readyTimeout = 5 * time.Second

// healthz answers that the process is alive.
func (s *API) healthz(c *call) error {
	c.Send(http.StatusOK, []byte(`{"status":"ok"}`))
	return nil
}

// readyz answers whether the service can do its work now and, if not, why.
func (s *API) readyz(c *call) error {
	ctx, cancel := context.WithTimeout(c.R.Context(), readyTimeout)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		body := batch.AppendString([]byte(`{"status":"unavailable","reason":`), err.Error())
		c.Send(http.StatusServiceUnavailable, append(body, '}'))
		return nil
	}
	c.Send(http.StatusOK, []byte(`{"status":"ready"}`))
	return nil
}
