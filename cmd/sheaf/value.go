package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/webhook"
	"github.com/spf13/pflag"
)

// value is the pflag.Value of one setting. parse's errors go on where the setting's
// name ends: `is "x" and has to be …`, so that they fit a flag and a variable alike.
type value[T any] struct {
	target *T
	text   string
	kind   string
	parse  func(string) (T, error)
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

// Set parses text. A wrong one changes nothing.
func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return err
	}
	*v.target, v.text = parsed, text
	return nil
}

// add defines a flag, sets it to its default (empty: the zero value) and names its
// variable in the help.
func add[T any](f *pflag.FlagSet, name, byDefault, kind, usage string, target *T, parse func(string) (T, error)) {
	v := &value[T]{target: target, kind: kind, parse: parse}
	if byDefault != "" {
		if err := v.Set(byDefault); err != nil {
			panic(fmt.Sprintf("the default of --%s %v", name, err)) //nolint:forbidigo // a mistake in this program, which every test finds
		}
	}
	f.Var(v, name, usage+" ["+variable(name)+"]")
}

// wrong says what a text would have to be.
func wrong(text, right string) error {
	return fmt.Errorf("is %q and has to be %s", text, right)
}

func parseAddress(text string) (string, error) {
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", wrong(text, "a host and a port from 0 to 65535, such as 127.0.0.1:8080 or :8080")
	}
	return text, nil
}

// parseUpstream applies the rules of the client that will use the address. Its
// errors don't quote the address, which may hold a password.
func parseUpstream(text string) (string, error) {
	client, err := outbound.New(outbound.Options{Template: text, Timeout: 1, MaxAnswer: 1, MaxConns: 1})
	if err != nil {
		return "", fmt.Errorf("is no address of an upstream: %w", err)
	}
	client.Close()
	return text, nil
}

// authMode is who is let in; the zero value: everybody.
type authMode struct{ check, keys string }

func parseAuth(text string) (m authMode, err error) {
	if text == "passthrough" {
		return m, nil
	}
	if address, ok := strings.CutPrefix(text, "check="); ok {
		m.check, err = parseUpstream(address)
		return m, err
	}
	if file, ok := strings.CutPrefix(text, "keys="); ok && file != "" {
		m.keys, err = parseFile(file)
		return m, err
	}
	return m, wrong(text, "passthrough, check=URL with the address to ask, or keys=FILE")
}

func parseDatabase(text string) (string, error) {
	for _, kind := range []string{"sqlite:", "postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(text, kind); ok && rest != "" {
			return text, nil
		}
	}
	// Not quoted: it may hold a password.
	return "", errors.New("is of an unknown kind and has to be sqlite:FILE, such as sqlite:sheaf.db, or postgres://USER:PASSWORD@HOST:PORT/NAME")
}

// credentialsVariable names the directory in which systemd puts the files of LoadCredential.
const credentialsVariable = "CREDENTIALS_DIRECTORY"

// parseFile reads a file's name. It may begin with the variable for systemd's credentials, so
// that a settings file can refer to one.
func parseFile(text string) (string, error) {
	if text == "" {
		return "", wrong(text, "the name of a file")
	}
	for _, prefix := range []string{"$" + credentialsVariable + "/", "${" + credentialsVariable + "}/"} {
		name, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		dir := os.Getenv(credentialsVariable)
		if dir == "" {
			return "", wrong(text, "another file, or a service started by systemd with LoadCredential: "+credentialsVariable+" is not set")
		}
		return filepath.Join(dir, name), nil
	}
	return text, nil
}

// parseNetworks reads addresses in CIDR notation, with commas between.
func parseNetworks(text string) (out []netip.Prefix, err error) {
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, wrong(text, "networks in CIDR notation with commas between, such as 10.1.0.0/16,fd00::/8")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// parseCallback applies the rules of callbacks, as if every host and this machine were allowed:
// the service knows which are.
func parseCallback(text string) (string, error) {
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if err := webhook.CheckURL(text, nil, local); err != nil {
		return "", fmt.Errorf("is %q and %w", text, err)
	}
	return text, nil
}

// parseHosts reads names of hosts, with commas between.
func parseHosts(text string) (out []string, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" || strings.ContainsAny(part, "/: ") {
			return nil, wrong(text, "names of hosts with commas between, such as hooks.example.com,example.org")
		}
		out = append(out, part)
	}
	return out, nil
}

// parseHeaders reads names of headers that may be admitted, with commas between.
func parseHeaders(text string) ([]string, error) {
	names := strings.Split(text, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	if _, err := batch.AdmitHeaders(names...); err != nil {
		return nil, fmt.Errorf("is %q and has to be names of headers with commas between: %w", text, err)
	}
	return names, nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, wrong(text, "a duration with its unit, such as 500ms, 30s or 20m")
	case d < leastDuration:
		return 0, wrong(text, fmt.Sprintf("at least %v", leastDuration))
	}
	return d, nil
}

func parseRetention(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d < leastRetention {
		err = wrong(text, "at least 1h: tickets and deduplication keys are promised that long")
	}
	return d, err
}

// parseSize reads bytes: 10MiB is 10·2²⁰, 10MB is 10·10⁶.
func parseSize(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		return 0, wrong(text, "a size such as 10MiB, 512KiB, 5MB or 1048576")
	case n < 1 || n > mostBytes:
		return 0, wrong(text, fmt.Sprintf("from 1 byte to %s", humanize.IBytes(mostBytes)))
	}
	return int64(n), nil
}

// parseStored reads a size that may be more than memory holds, and 0.
func parseStored(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > mostStored {
		return 0, wrong(text, "a size such as 500MiB or 2GiB, at most "+humanize.IBytes(mostStored)+"; 0: no limit")
	}
	return int64(n), nil
}

// parseRate reads a number of requests and a span of time.
func parseRate(text string) (r sheaf.Rate, err error) {
	const right = "a number of requests in a time, such as 600/m, 10/s, 5000/h or 100/10s, from 1/24h to 1000000/s"
	n, per, ok := strings.Cut(text, "/")
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per
	}
	if r.N, err = strconv.Atoi(n); err != nil || !ok {
		return sheaf.Rate{}, wrong(text, right)
	}
	if r.Per, err = time.ParseDuration(per); err != nil || !r.Valid() {
		return sheaf.Rate{}, wrong(text, right)
	}
	return r, nil
}

func parseCount(least int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > mostCount {
			return 0, wrong(text, fmt.Sprintf("a whole number from %d to %d", least, mostCount))
		}
		return n, nil
	}
}

// optional returns a parser for a field that is a pointer because 0 is a value of its own.
func optional[T any](parse func(string) (T, error)) func(string) (*T, error) {
	return func(text string) (*T, error) {
		v, err := parse(text)
		return &v, err
	}
}

func parseBool(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, wrong(text, "true or false")
	}
	return b, nil
}

// choice is one of a setting's words and what it stands for.
type choice[T any] struct {
	word string
	is   T
}

// oneOf accepts the words of the choices.
func oneOf[T any](choices ...choice[T]) func(string) (T, error) {
	return func(text string) (T, error) {
		words := make([]string, len(choices))
		for i, c := range choices {
			if words[i] = c.word; c.word == text {
				return c.is, nil
			}
		}
		var none T
		return none, wrong(text, strings.Join(words, " or "))
	}
}
