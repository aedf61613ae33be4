// Package auth decides which callers and operators the service admits.
//
// There are three ways to judge a caller. By default, the package admits every token: a batch
// belongs to the token that created it, and the upstream judges the token later. With
// Options.CheckURL, the package first calls a URL of the API with the caller's token. With
// Options.KeysFile, it admits the keys that the operator issued, and the upstream gets the
// credential stored with the key, which callers never see. With either option, all callers of a
// store share the store's batches.
package auth

import (
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// The rights of a key.
const (
	Create = "create" // create batches
	Read   = "read"   // read status and search
	Cancel = "cancel" // stop and delete

	// Operate allows reading the overview of all stores, and releasing and ending quarantined
	// batches.
	Operate = "operate"
)

// Rights lists all rights. CallerRights lists those that concern batches.
var (
	Rights       = []string{Create, Read, Cancel, Operate}
	CallerRights = []string{Create, Read, Cancel}
)

// EveryStore stands for all stores in a key's list. No store has this name.
const EveryStore = "*"

// Caller is a caller that was admitted to a store.
type Caller struct {
	Owner  batch.Owner // the owner of the caller's batches
	Shared bool        // every caller admitted to the store has this owner
	Token  string      // the credential for the upstream
	Name   string      // the name of the caller's key; empty if it has no key
}

// storeOwner returns the owner of all batches of a store whose callers share them. No token has
// this owner, because tokens contain no NUL.
func storeOwner(store string) batch.Owner { return batch.OwnerOf("\x00store\x00" + store) }

// A Refusal is the error for a token that is not admitted.
type Refusal struct {
	Status int           // 401 or 403; 429: too many guesses; 503: the API's answer was inconclusive
	Reason string        // a sentence for the caller
	Wait   time.Duration // with 429: how long the address must wait before its next unknown token is judged

	guess bool // the token is unknown
}

func (r *Refusal) Error() string { return r.Reason }
