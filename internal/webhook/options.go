package webhook

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Options configure a Deliverer. Storage and Logger must be set.
type Options struct {
	Storage Storage
	// SecretFile holds the secrets that sign callbacks. Without it there are no callbacks.
	SecretFile string
	// URL is called for batches that name no callbackUrl; empty: none is called.
	URL string
	// Hosts are the only hosts that may be called; empty: all.
	Hosts []string
	// Allow are networks that may be called although they aren't public.
	Allow []netip.Prefix

	UserAgent string
	Logger    *slog.Logger
	Observe   func(*storage.Delivery) // called after each attempt; may be nil
}

// Open returns the Deliverer of the options; nil if they turn callbacks off.
func Open(o Options) (*Deliverer, error) {
	if o.SecretFile == "" {
		if o.URL != "" {
			return nil, errors.New("the webhook's URL needs a secret file that signs callbacks; create it with: sheaf webhooks new-secret FILE")
		}
		return nil, nil
	}
	signer, err := ReadSecrets(o.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("webhook secret: %w", err)
	}
	if o.URL != "" {
		if err := CheckURL(o.URL, o.Hosts, o.Allow); err != nil {
			return nil, fmt.Errorf("the webhook's URL %w", err)
		}
	}
	return &Deliverer{
		Storage: o.Storage, Signer: signer, UserAgent: o.UserAgent, Logger: o.Logger, Observe: o.Observe, OperatorURL: o.URL,
		Client: outbound.Receiver(&outbound.Guard{Allow: o.Allow}, Timeout), hosts: o.Hosts, allow: o.Allow,
	}, nil
}

// CheckCallback reports whether a caller's callbackUrl may be called. An error completes a sentence.
func (d *Deliverer) CheckCallback(url string) error { return CheckURL(url, d.hosts, d.allow) }

// Default returns the callback to store with batches that name none; "": they have none. It is a
// placeholder for the operator's URL, because callers can read what is stored with their batches.
func (d *Deliverer) Default() string {
	if d.OperatorURL == "" {
		return ""
	}
	return Operator
}
