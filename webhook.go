package sheaf

import (
	"errors"
	"fmt"

	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/webhook"
)

// deliverer returns what tells receivers of the ends of batches; nil: nobody is told.
func (o *Options) deliverer(store webhook.Storage, observe func(*storage.Delivery)) (*webhook.Deliverer, error) {
	if o.Webhooks.SecretFile == "" {
		if o.Webhooks.URL != "" {
			return nil, errors.New("a webhook's address needs a secret file that signs what is sent there: make it with: sheaf webhooks new-secret FILE")
		}
		return nil, nil
	}
	signer, err := webhook.ReadSecrets(o.Webhooks.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("webhook secret: %w", err)
	}
	if o.Webhooks.URL != "" {
		if err := webhook.CheckURL(o.Webhooks.URL, o.Webhooks.Hosts, o.Webhooks.Allow); err != nil {
			return nil, fmt.Errorf("the webhook's address %w", err)
		}
	}
	return &webhook.Deliverer{
		Storage: store, Signer: signer, UserAgent: "sheaf/" + Version, Logger: o.Logger, Observe: observe, OperatorURL: o.Webhooks.URL,
		Client: outbound.Receiver(&outbound.Guard{Allow: o.Webhooks.Allow}, webhook.Timeout),
	}, nil
}

// checkCallback returns what judges a callbackUrl; nil: there are none.
func (o *Options) checkCallback() func(string) error {
	if o.Webhooks.SecretFile == "" {
		return nil
	}
	return func(text string) error { return webhook.CheckURL(text, o.Webhooks.Hosts, o.Webhooks.Allow) }
}

// operatorCallback returns what is stored as the callback of batches that name none. It is not
// the operator's address itself, because callers can read what is stored with their batches.
func (o *Options) operatorCallback() string {
	if o.Webhooks.URL == "" {
		return ""
	}
	return webhook.Operator
}
