package auth

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/secret"
)

// Limits on one check of a token.
const (
	checkTimeout = 10 * time.Second
	checkAnswer  = 1 << 20 // bytes of an answer's body, whose content is ignored
	checkConns   = 64      // idle connections
)

// Options configure a Gate. The zero value admits every caller but no operator.
type Options struct {
	// CheckURL is a URL of the API that is called with a caller's token. {storeId} in it stands for
	// the store. CheckAnyStore allows a URL without {storeId}.
	CheckURL      string
	CheckAnyStore bool
	// KeysFile is a file of issued keys. It can't be combined with CheckURL.
	KeysFile string
	// OperatorKeysFile is a file of issued keys for operators. With KeysFile, operators' keys are in
	// that file, and OperatorKeysFile must be empty.
	OperatorKeysFile string
	// TrustedProxies are the networks of proxies whose X-Forwarded-For is trusted.
	TrustedProxies Proxies

	Secret secret.Key // opens the credentials of issued keys

	// Connections to CheckURL.
	TLS       *tls.Config
	Guard     *outbound.Guard
	UserAgent string

	Logger *slog.Logger
}

// Gate judges tokens and slows down addresses that guess them. It is safe for concurrent use.
//
// Only unknown tokens count as guesses. An issued key, or a token that the API has admitted before,
// is judged even if its address has used up its guesses, so that callers behind one address can't
// lock each other out.
type Gate struct {
	check     *check // at most one of check and keys is set
	keys      *keys
	operators *keys // nil: there are no operators
	proxies   Proxies
}

// Open returns a Gate. Close it when done.
func Open(o Options) (*Gate, error) {
	g := &Gate{proxies: o.TrustedProxies}
	switch {
	case o.CheckURL != "" && o.KeysFile != "":
		return nil, errors.New("Auth.CheckURL and Auth.KeysFile are alternatives: set one of them")
	case o.CheckAnyStore && o.CheckURL == "":
		return nil, errors.New("Auth.CheckAnyStore has no effect without Auth.CheckURL")
	case o.OperatorKeysFile != "" && o.KeysFile != "":
		return nil, errors.New("Auth.OperatorKeysFile can't be combined with Auth.KeysFile: put the operators' keys into that file")
	}
	var err error
	if o.KeysFile != "" {
		if g.keys, err = openKeys(o.KeysFile, o.Secret); err != nil {
			return nil, err
		}
		g.operators = g.keys
	}
	if o.OperatorKeysFile != "" {
		if g.operators, err = openKeys(o.OperatorKeysFile, o.Secret); err != nil {
			return nil, err
		}
	}
	if o.CheckURL != "" {
		if g.check, err = openCheck(&o); err != nil {
			return nil, fmt.Errorf("auth check: %w", err)
		}
	}
	return g, nil
}

// openCheck returns a check that calls CheckURL.
func openCheck(o *Options) (*check, error) {
	if !strings.Contains(o.CheckURL, "{storeId}") && !o.CheckAnyStore {
		return nil, errors.New("the URL has no {storeId}, so every valid token would own the batches of every store: " +
			"put {storeId} into its path, or set Auth.CheckAnyStore if all callers may share everything")
	}
	client, err := outbound.New(outbound.Options{
		Template: o.CheckURL, TLS: o.TLS, Guard: o.Guard, Timeout: checkTimeout, MaxAnswer: checkAnswer, MaxConns: checkConns,
		UserAgent: o.UserAgent, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	c := newCheck(client, checkTimeout, o.Logger)
	c.close = client.Close
	return c, nil
}

// Close closes the connections to the API that checks tokens.
func (g *Gate) Close() {
	if g.check != nil {
		g.check.close()
	}
}

// AdmitsStrangers reports whether the gate admits tokens without judging them.
func (g *Gate) AdmitsStrangers() bool { return g.check == nil && g.keys == nil }

// Reload reads the files of issued keys again. If a file can't be used, its old keys stay in
// effect.
func (g *Gate) Reload() (err error) {
	if g.operators != nil {
		err = g.operators.reload()
	}
	if g.keys != nil && g.keys != g.operators {
		err = errors.Join(err, g.keys.reload())
	}
	return err
}

// Authorize checks that a caller's token has a right at a store. Errors: *Refusal,
// r.Context().Err().
func (g *Gate) Authorize(r *http.Request, store, token, right string) (Caller, error) {
	switch {
	case g.keys != nil:
		key, err := g.keys.judge(g.proxies.Address(r), store, token, right)
		if err != nil {
			return Caller{}, err
		}
		return Caller{Owner: storeOwner(store), Shared: true, Token: key.credential, Name: key.Name}, nil
	case g.check != nil:
		err := g.check.judge(r.Context(), g.proxies.Address(r), store, token)
		return Caller{Owner: storeOwner(store), Shared: true, Token: token}, err
	}
	return Caller{Owner: batch.OwnerOf(token), Token: token}, nil
}

// AuthorizeOperator checks that a token is an operator's. Errors: *Refusal.
func (g *Gate) AuthorizeOperator(r *http.Request, token string) error {
	if g.operators == nil {
		return &Refusal{Status: http.StatusForbidden, Reason: "Operator access is not configured. Start the service with keys that have the right to operate."}
	}
	_, err := g.operators.judge(g.proxies.Address(r), EveryStore, token, Operate)
	return err
}

// isGuess reports whether a token was refused because it is unknown.
func isGuess(err error) bool {
	refusal, ok := errors.AsType[*Refusal](err)
	return ok && refusal.guess
}
