// Package openapi holds the description of the service's API (OpenAPI 3.1), and serves it
// with a page to read it and try it.
package openapi

import (
	_ "embed" // the document
)

// Document is the description, in YAML.
//
//go:embed openapi.yaml
var Document []byte
