package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/database"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/sheafapi/sheaf/internal/webhook"
	"github.com/spf13/pflag"
)

// setter reads the text of a setting, or of a part of it, and returns a function that assigns what it
// read. Its errors continue a sentence that begins with the setting's name, so they fit a flag, a
// variable and a key alike: `is "x" but must be …`.
type setter func(text string) (assign func(), err error)

// into returns a setter that parses a text into a field.
func into[T any](target *T, parse func(string) (T, error)) setter {
	return func(text string) (func(), error) {
		parsed, err := parse(text)
		return func() { *target = parsed }, err
	}
}

// part is one part of a setting's value.
type part struct {
	form string // NAME=WHAT, or only WHAT if the part's position identifies it
	set  setter
}

// name returns what the part begins with: stores= for stores=COUNT, or "".
func (p part) name() string {
	name, _, named := strings.Cut(p.form, "=")
	if !named {
		return ""
	}
	return name + "="
}

// value is the pflag.Value of one setting. If it has several parts, commas separate them, as in
// 1024,stores=100, and each can come from another layer: the command line, the environment, the
// settings file or the default. A value with a single part may be a list, which is never merged.
type value struct {
	parts            []part
	kind             string
	given, byDefault map[int]string // texts of the parts
}

func (v *value) String() string {
	all := over(v.byDefault, v.given)
	var texts []string
	for i, p := range v.parts {
		if text, ok := all[i]; ok {
			texts = append(texts, p.name()+text)
		}
	}
	return strings.Join(texts, ",")
}

func (v *value) Type() string { return v.kind }

// Set implements pflag.Value. It keeps the parts that the text doesn't name.
func (v *value) Set(text string) error {
	texts, err := v.split(text)
	if err != nil {
		return err
	}
	return v.assign(over(v.given, texts))
}

// setUnset is like Set, but sets only the parts that have not been set yet. It reports whether it set
// any.
func (v *value) setUnset(text string) (used bool, err error) {
	texts, err := v.split(text)
	if err != nil {
		return false, err
	}
	before := len(v.given)
	err = v.assign(over(texts, v.given))
	return len(v.given) > before, err
}

// over returns the texts of both layers; the higher one wins.
func over(low, high map[int]string) map[int]string {
	all := maps.Clone(low)
	if all == nil {
		all = map[int]string{}
	}
	maps.Copy(all, high)
	return all
}

// split returns the text of each part. Spaces around a part don't count.
func (v *value) split(text string) (map[int]string, error) {
	if len(v.parts) == 1 {
		return map[int]string{0: text}, nil
	}
	texts := map[int]string{}
	for i, one := range strings.Split(text, ",") {
		one = strings.TrimSpace(one)
		at := slices.IndexFunc(v.parts, func(p part) bool { return p.name() != "" && strings.HasPrefix(one, p.name()) })
		if at < 0 && i < len(v.parts) && v.parts[i].name() == "" {
			at = i
		}
		if at >= 0 {
			one = strings.TrimPrefix(one, v.parts[at].name())
		}
		if _, twice := texts[at]; at < 0 || twice || one == "" {
			var forms []string
			for _, p := range v.parts {
				forms = append(forms, p.form)
			}
			return nil, wrong(text, strings.Join(forms, ",")+", where each part is optional")
		}
		texts[at] = one
	}
	return texts, nil
}

// assign reads all parts and then assigns them. After an error, the setting is unchanged.
func (v *value) assign(given map[int]string) error {
	all := over(v.byDefault, given)
	var assigns []func()
	for i, p := range v.parts {
		text, ok := all[i]
		if !ok {
			continue
		}
		assign, err := p.set(text)
		if err != nil {
			return err
		}
		assigns = append(assigns, assign)
	}
	for _, assign := range assigns {
		assign()
	}
	v.given = given
	return nil
}

// add defines a flag with a single part.
func add(f *pflag.FlagSet, name, byDefault, kind, usage string, set setter) {
	addParts(f, name, byDefault, kind, usage, part{set: set})
}

// addParts defines a flag and sets it to its default; an empty default is the zero value.
func addParts(f *pflag.FlagSet, name, byDefault, kind, usage string, parts ...part) {
	v := &value{parts: parts, kind: kind}
	if byDefault != "" {
		texts, err := v.split(byDefault)
		if err == nil {
			v.byDefault = texts
			err = v.assign(nil)
		}
		if err != nil {
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

// setGuard reads on, off, or networks, which turn the guard on.
func setGuard(u *sheaf.Upstream) setter {
	return func(text string) (func(), error) {
		on, err := parseSwitch(text)
		var allow []netip.Prefix
		if err != nil {
			on = true
			allow, err = parseNetworks(text)
		}
		if err != nil {
			return nil, wrong(text, "on, off, or the networks to allow besides public addresses, such as 10.1.0.0/16,fd00::/8")
		}
		return func() { u.Guard, u.GuardAllow = on, allow }, nil
	}
}

// setSuccess reads status codes, and JSON pointers after fail-when=.
func setSuccess(u *sheaf.Upstream) setter {
	return func(text string) (func(), error) {
		var codes, failWhen []string
		for one := range strings.SplitSeq(text, ",") {
			one = strings.TrimSpace(one)
			if pointer, named := strings.CutPrefix(one, "fail-when="); named || len(failWhen) > 0 && strings.HasPrefix(one, "/") {
				failWhen = append(failWhen, pointer)
			} else {
				codes = append(codes, one)
			}
		}
		success := cmp.Or(strings.Join(codes, ","), "2xx")
		_, err := batch.ParseCodes(success)
		if err == nil {
			err = batch.CheckFailWhen(failWhen)
		}
		if err != nil {
			return nil, fmt.Errorf("is %q but %w", text, err)
		}
		return func() { u.Success, u.FailWhen = success, failWhen }, nil
	}
}

// setReceivers reads networks, addresses and host names.
func setReceivers(w *sheaf.Webhooks) setter {
	return func(text string) (func(), error) {
		var networks []netip.Prefix
		var hosts []string
		for part := range strings.SplitSeq(text, ",") {
			if network, err := parseNetworks(part); err == nil {
				networks = append(networks, network...)
				continue
			}
			host, err := parseHosts(part)
			if err != nil {
				return nil, wrong(text, "networks, addresses and host names, such as 10.1.0.0/16,10.2.0.7,hooks.example.com")
			}
			hosts = append(hosts, host...)
		}
		return func() { w.Allow, w.Hosts = networks, hosts }, nil
	}
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

// setAuth reads how callers are admitted. Its error quotes only the mode, because the rest may hold a
// secret.
func setAuth(a *sheaf.Auth) setter {
	return func(text string) (assign func(), err error) {
		var check, keys string
		mode, rest, _ := strings.Cut(text, "=")
		switch {
		case text == "passthrough":
		case mode == "check" || mode == "check-any-store":
			check, err = parseUpstream(rest)
		case mode == "keys":
			keys, err = private.Name(rest)
		default:
			if end := strings.IndexFunc(mode, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') }); end >= 0 {
				mode = mode[:end]
			}
			err = wrong(mode, "passthrough, check=URL or check-any-store=URL with an address that checks tokens, or keys=FILE")
		}
		return func() { a.CheckURL, a.CheckAnyStore, a.KeysFile = check, mode == "check-any-store", keys }, err
	}
}

// parseDatabase checks a database's address. Its errors don't quote the address, because it may hold
// a password.
func parseDatabase(text string) (string, error) {
	if file, isSQLite := strings.CutPrefix(text, "sqlite:"); isSQLite && file != "" {
		return text, nil
	}
	if !database.IsShared(text) {
		return "", errors.New("is of an unknown kind but must be sqlite:FILE, such as sqlite:sheaf.db, or postgres://USER@HOST:PORT/NAME")
	}
	if _, err := database.MaxConnections(text); err != nil {
		return "", fmt.Errorf("is not the address of a database: %w", err)
	}
	return text, nil
}

// parseNetworks reads networks, separated by commas. An address without a length is a network of one
// host.
func parseNetworks(text string) (out []netip.Prefix, err error) {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		network, err := netip.ParsePrefix(part)
		if host, bare := netip.ParseAddr(part); bare == nil && host.Zone() == "" {
			network, err = host.Unmap().Prefix(host.Unmap().BitLen())
		}
		if err != nil {
			return nil, wrong(text, "networks in CIDR notation or addresses, separated by commas, such as 10.1.0.0/16,fd00::/8")
		}
		out = append(out, network.Masked())
	}
	return out, nil
}

// parseCallback applies the rules for callbacks as if every host and this machine were allowed. The
// service checks the rest. Its errors don't quote the address, because it may hold a secret.
func parseCallback(text string) (string, error) {
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if err := webhook.CheckURL(text, nil, local); err != nil {
		return "", fmt.Errorf("is not the address of a receiver: it %w", err)
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

// parseLimit reads a duration that may be 0.
func parseLimit(text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	d, err := parseDuration(text)
	if err != nil {
		err = fmt.Errorf("%w, or 0", err)
	}
	return d, err
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
