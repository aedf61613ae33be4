package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
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

// setter takes the text of a setting. Its errors continue a sentence that begins with the setting's
// name, so they fit a flag, a variable and a key alike: `is "x" but must be …`. After an error the
// setting is unchanged.
type setter func(text string) error

// into returns a setter that parses a text into a field.
func into[T any](target *T, parse func(string) (T, error)) setter {
	return func(text string) error {
		parsed, err := parse(text)
		if err == nil {
			*target = parsed
		}
		return err
	}
}

// withPair returns a setter for a value that a pair may follow, as in 1024,stores=100.
func withPair(first setter, name string, second setter) setter {
	return func(text string) error {
		value, rest, more := strings.Cut(text, ",")
		paired, ok := strings.CutPrefix(rest, name+"=")
		if more && (!ok || paired == "") {
			return wrong(text, "one value, optionally followed by ,"+name+"=VALUE")
		}
		err := first(value)
		if err == nil && more {
			err = second(paired)
		}
		return err
	}
}

// value is the pflag.Value of one setting.
type value struct {
	setter
	text, kind string
}

func (v *value) String() string { return v.text }
func (v *value) Type() string   { return v.kind }

// Set implements pflag.Value.
func (v *value) Set(text string) error {
	err := v.setter(text)
	if err == nil {
		v.text = text
	}
	return err
}

// add defines a flag and sets it to its default; an empty default is the zero value.
func add(f *pflag.FlagSet, name, byDefault, kind, usage string, set setter) {
	v := &value{setter: set, kind: kind}
	if byDefault != "" {
		if err := v.Set(byDefault); err != nil {
			panic(fmt.Sprintf("the default of --%s %v", name, err)) //nolint:forbidigo // a mistake in this program, which every test finds
		}
	}
	f.Var(v, name, usage)
}

// wrong returns the error for an invalid text. right says what the text must be.
func wrong(text, right string) error {
	return fmt.Errorf("is %q but must be %s", text, right)
}

// parseMetrics reads an address, or off.
func parseMetrics(text string) (string, error) {
	if text == "off" {
		return text, nil
	}
	return parseAddress(text)
}

func parseTLS(text string) (t tlsFiles, err error) {
	fields := map[string]*string{
		"cert": &t.cert, "key": &t.key, "upstream-ca": &t.upstreamCA, "upstream-cert": &t.upstreamCert, "upstream-key": &t.upstreamKey,
	}
	for part := range strings.SplitSeq(text, ",") {
		name, file, _ := strings.Cut(strings.TrimSpace(part), "=")
		field, ok := fields[name]
		if !ok || file == "" || *field != "" {
			return tlsFiles{}, wrong(text, "cert=FILE,key=FILE for callers, and upstream-ca=FILE, upstream-cert=FILE,upstream-key=FILE for the upstream")
		}
		if *field, err = parseFile(file); err != nil {
			return tlsFiles{}, err
		}
	}
	return t, nil
}

// setGuard reads on, off, or networks, which turn the guard on.
func setGuard(u *sheaf.Upstream) setter {
	return func(text string) error {
		on, err := parseSwitch(text)
		var allow []netip.Prefix
		if err != nil {
			on = true
			allow, err = parseNetworks(text)
		}
		if err != nil {
			return wrong(text, "on, off, or the networks to allow besides public addresses, such as 10.1.0.0/16,fd00::/8")
		}
		u.Guard, u.GuardAllow = on, allow
		return nil
	}
}

// setReceivers reads networks in CIDR notation and host names.
func setReceivers(w *sheaf.Webhooks) setter {
	return func(text string) error {
		var networks []netip.Prefix
		var hosts []string
		for part := range strings.SplitSeq(text, ",") {
			part = strings.TrimSpace(part)
			if network, err := parseNetworks(part); err == nil {
				networks = append(networks, network...)
				continue
			}
			host, err := parseHosts(part)
			if _, bare := netip.ParseAddr(part); err != nil || bare == nil {
				return wrong(text, "networks in CIDR notation and host names, such as 10.1.0.0/16,hooks.example.com")
			}
			hosts = append(hosts, host...)
		}
		w.Allow, w.Hosts = networks, hosts
		return nil
	}
}

func parseLog(text string) (l logSettings, err error) {
	format, level, more := strings.Cut(text, ",")
	if l.json = format == "json"; !l.json && format != "text" || more && !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
		return logSettings{}, wrong(text, "text or json, optionally with a level (debug, info, warn or error), such as json,debug")
	}
	if more {
		err = l.level.UnmarshalText([]byte(level))
	}
	return l, err
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

// parseUpstream applies the rules of the client that will use the address. Its errors don't quote
// the address, because it may hold a password.
func parseUpstream(text string) (string, error) {
	client, err := outbound.New(outbound.Options{Template: text, Timeout: 1, MaxAnswer: 1, MaxConns: 1})
	if err != nil {
		return "", fmt.Errorf("is not the address of an upstream: %w", err)
	}
	client.Close()
	return text, nil
}

func setAuth(a *sheaf.Auth) setter {
	return func(text string) (err error) {
		var check, keys string
		kind, rest, _ := strings.Cut(text, "=")
		switch {
		case text == "passthrough":
		case kind == "check" || kind == "check-any-store":
			check, err = parseUpstream(rest)
		case kind == "keys" && rest != "":
			keys, err = parseFile(rest)
		default:
			err = wrong(text, "passthrough, check=URL or check-any-store=URL with an address that checks tokens, or keys=FILE")
		}
		if err == nil {
			a.CheckURL, a.CheckAnyStore, a.KeysFile = check, kind == "check-any-store", keys
		}
		return err
	}
}

// passwordFile is the parameter of a PostgreSQL URL that names a file.
const passwordFile = "sheaf_password_file="

func parseDatabase(text string) (string, error) {
	for _, kind := range []string{"sqlite:", "postgres://", "postgresql://"} {
		rest, ok := strings.CutPrefix(text, kind)
		if !ok || rest == "" {
			continue
		}
		before, parameter, ok := strings.Cut(text, passwordFile)
		if !ok || kind == "sqlite:" {
			return text, nil
		}
		name, after, _ := strings.Cut(parameter, "&")
		file, err := parseFile(name)
		if file != name {
			text = before + passwordFile + url.QueryEscape(file) + "&" + after
		}
		return text, err
	}
	// The text isn't quoted, because it may hold a password.
	return "", errors.New("is of an unknown kind but must be sqlite:FILE, such as sqlite:sheaf.db, or postgres://USER@HOST:PORT/NAME")
}

// credentialsVariable names the directory where systemd puts the files of LoadCredential.
const credentialsVariable = "CREDENTIALS_DIRECTORY"

// parseFile reads a file's name. The name may begin with the variable for systemd's credentials, so
// that a settings file can refer to them.
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
			return "", wrong(text, "a name without "+credentialsVariable+", which is not set: systemd sets it for LoadCredential")
		}
		return filepath.Join(dir, name), nil
	}
	return text, nil
}

// parseNetworks reads networks in CIDR notation, separated by commas.
func parseNetworks(text string) (out []netip.Prefix, err error) {
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, wrong(text, "networks in CIDR notation, separated by commas, such as 10.1.0.0/16,fd00::/8")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// parseCallback applies the rules for callbacks as if every host and this machine were allowed. The
// service checks the rest.
func parseCallback(text string) (string, error) {
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if err := webhook.CheckURL(text, nil, local); err != nil {
		return "", fmt.Errorf("is %q but %w", text, err)
	}
	return text, nil
}

// parseHosts reads host names, separated by commas.
func parseHosts(text string) (out []string, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" || strings.ContainsAny(part, "/: ") {
			return nil, wrong(text, "host names, separated by commas, such as hooks.example.com,example.org")
		}
		out = append(out, part)
	}
	return out, nil
}

// parseHeaders reads the names of headers that requests may carry, separated by commas.
func parseHeaders(text string) ([]string, error) {
	names := strings.Split(text, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	if _, err := batch.AdmitHeaders(names...); err != nil {
		return nil, fmt.Errorf("is %q but must be header names, separated by commas: %w", text, err)
	}
	return names, nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, wrong(text, "a duration with its unit, such as 500ms, 30s or 20m")
	case d < minDuration:
		return 0, wrong(text, fmt.Sprintf("at least %v", minDuration))
	}
	return d, nil
}

func parseRetention(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d < minRetention {
		err = wrong(text, "at least 1h, because tickets and deduplication keys are guaranteed for that long")
	}
	return d, err
}

// parseSize reads a number of bytes: 10MiB is 10·2²⁰, 10MB is 10·10⁶.
func parseSize(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		return 0, wrong(text, "a size such as 10MiB, 512KiB, 5MB or 1048576")
	case n < 1 || n > maxBytes:
		return 0, wrong(text, fmt.Sprintf("from 1 byte to %s", humanize.IBytes(maxBytes)))
	}
	return int64(n), nil
}

// parseStored reads a size that may be larger than memory; 0 means no limit.
func parseStored(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > maxStored {
		return 0, wrong(text, "a size such as 500MiB or 2GiB, at most "+humanize.IBytes(maxStored)+"; 0: no limit")
	}
	return int64(n), nil
}

// parseRate reads a number of requests and a span of time.
func parseRate(text string) (r sheaf.Rate, err error) {
	const right = "a number of requests per time, such as 600/m, 10/s, 5000/h or 100/10s, from 1/24h to 1000000/s"
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
		if err != nil || n < least || n > maxCount {
			return 0, wrong(text, fmt.Sprintf("a whole number from %d to %d", least, maxCount))
		}
		return n, nil
	}
}

// optional returns a parser for a field that is a pointer because 0 doesn't mean unset.
func optional[T any](parse func(string) (T, error)) func(string) (*T, error) {
	return func(text string) (*T, error) {
		v, err := parse(text)
		return &v, err
	}
}

// parseSwitch reads on or off. It also takes true and false, as other programs write them.
func parseSwitch(text string) (bool, error) {
	switch text {
	case "on", "true":
		return true, nil
	case "off", "false":
		return false, nil
	}
	return false, wrong(text, "on or off")
}

// choice is a word of a setting and the value it stands for.
type choice[T any] struct {
	word string
	is   T
}

// oneOf returns a parser that accepts the words of the choices.
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
