package submit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/sheafapi/sheaf/internal/batch"
)

// template turns a row of CSV into a request. It is JSON with placeholders. {{column}} stands for the
// text of a column: as a JSON string if the placeholder is a whole value, as escaped text inside a string,
// and percent-encoded in the path. {{column:number}}, {{column:bool}} and {{column:json}} check the text
// and insert a value of that type. With ? after the type, an empty cell becomes null. Braces that aren't a
// placeholder are written \u007b\u007b, as JSON allows.
type template struct {
	pieces []piece
	end    string // the literal text after the last piece
}

// piece is a placeholder and the literal text before it.
type piece struct {
	before string
	column int
	name   string
	kind   kind
	empty  bool // an empty cell becomes null
	where  where

	decimalComma bool // numbers are written as 1.234,50
}

// kind is the type of a placeholder's value.
type kind string

const (
	stringKind kind = "string"
	numberKind kind = "number"
	boolKind   kind = "bool"
	jsonKind   kind = "json"
)

var kinds = []kind{stringKind, numberKind, boolKind, jsonKind}

// where is the context of a placeholder.
type where int

const (
	asValue where = iota // a whole JSON value
	inText               // inside a JSON string
	inPath               // inside the request's path
	inQuery              // inside the query of the request's path
)

// parseTemplate parses a template for rows with these columns.
func parseTemplate(text string, columns []string, decimalComma bool) (*template, error) {
	t, err := scan(text)
	if err != nil {
		return nil, fmt.Errorf("the template %w", err)
	}
	for i := range t.pieces {
		p := &t.pieces[i]
		p.decimalComma = decimalComma
		if err := p.resolve(columns); err != nil {
			return nil, fmt.Errorf("the template %w", err)
		}
	}
	if err := t.findPath(); err != nil {
		return nil, fmt.Errorf("the template %w", err)
	}
	return t, nil
}

// scan finds the placeholders, and determines whether each is inside a string.
func scan(text string) (*template, error) {
	t := &template{}
	quoted, begin := false, 0
	for i := 0; i < len(text); i++ {
		switch {
		case quoted && text[i] == '\\':
			i++
		case text[i] == '"':
			quoted = !quoted
		case strings.HasPrefix(text[i:], "{{"):
			n := strings.Index(text[i:], "}}")
			if n < 0 {
				return nil, fmt.Errorf("opens a {{ at byte %d and never closes it; %s", i+1, literalBraces)
			}
			p := piece{before: text[begin:i], name: strings.TrimSpace(text[i+2 : i+n])}
			if quoted {
				p.where = inText
			}
			t.pieces = append(t.pieces, p)
			i += n + 1
			begin = i + 1
		}
	}
	t.end = text[begin:]
	return t, nil
}

// literalBraces says how to write braces that are not a placeholder.
const literalBraces = `write literal braces as \u007b\u007b`

// resolve finds the column that a placeholder names, and its type.
func (p *piece) resolve(columns []string) error {
	whole := p.name
	p.kind = stringKind
	if whole == "" {
		return errors.New("has {{}}, which names no column; " + literalBraces)
	}
	if p.column = slices.Index(columns, p.name); p.column < 0 {
		if i := strings.LastIndexByte(p.name, ':'); i >= 0 {
			typ, optional := strings.CutSuffix(strings.TrimSpace(p.name[i+1:]), "?")
			p.name, p.kind, p.empty = strings.TrimSpace(p.name[:i]), kind(typ), optional
		}
		if !slices.Contains(kinds, p.kind) {
			return fmt.Errorf("has {{%s}}, but the type must be string, number, bool or json; %s", whole, literalBraces)
		}
		p.column = slices.Index(columns, p.name)
	}
	switch {
	case p.column < 0:
		return fmt.Errorf("uses the column %q, but the file only has %s; %s", p.name, strings.Join(trimBlank(columns), ", "), literalBraces)
	case p.empty && p.where != asValue:
		return fmt.Errorf("has {{%s}} inside a string, where a value can't be null", whole)
	}
	return nil
}

// findPath finds the placeholders in the request's path. It returns an error if the template is not a
// JSON object or has a placeholder in a name.
func (t *template) findPath() error {
	d := jsontext.NewDecoder(bytes.NewReader(t.sample()))
	n := 0 // the placeholders found so far
	for name := ""; ; {
		token, err := d.ReadToken()
		if errors.Is(err, io.EOF) && d.StackDepth() == 0 && d.InputOffset() > 0 {
			if n != len(t.pieces) {
				return errAmbiguous
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("is not JSON: %w", plain(err))
		}
		if d.StackDepth() == 0 && token.Kind() != '}' {
			return errors.New("must be a JSON object such as {\"method\":\"GET\",\"path\":\"/products/{{id}}\"}")
		}
		if token.Kind() != '"' {
			continue
		}
		in, length := d.StackIndex(d.StackDepth())
		isName := in == '{' && length%2 == 1
		text := token.String()
		count := strings.Count(text, sampleText)
		switch {
		case n+count > len(t.pieces):
			return errAmbiguous
		case isName && count > 0:
			return fmt.Errorf("has {{%s}} in a name, where only literal text is allowed", t.pieces[n].name)
		case isName && d.StackDepth() == 1:
			name = text
		case !isName && d.StackDepth() == 1 && name == "path":
			before := ""
			for i := range count {
				part, rest, _ := strings.Cut(text, sampleText)
				text, before = rest, before+part
				p := &t.pieces[n+i]
				switch {
				case p.where == asValue: // the column has the whole path
				case strings.Contains(before, "?"):
					p.where = inQuery
				default:
					p.where = inPath
				}
			}
		}
		n += count
	}
}

// sampleText replaces each placeholder while a template is parsed.
const sampleText = "\ue000place\ue000"

var errAmbiguous = errors.New("contains the private-use character U+E000, which is not allowed in templates")

// sample returns the template with sampleText in place of its placeholders.
func (t *template) sample() []byte {
	var b []byte
	for _, p := range t.pieces {
		b = append(b, p.before...)
		if p.where == asValue {
			b = append(b, `"`+sampleText+`"`...)
		} else {
			b = append(b, sampleText...)
		}
	}
	return append(b, t.end...)
}

// append appends the request for a row.
func (t *template) append(dst []byte, columns []string) ([]byte, error) {
	for i := range t.pieces {
		p := &t.pieces[i]
		dst = append(dst, p.before...)
		var err error
		if dst, err = p.append(dst, columns[p.column]); err != nil {
			return dst, fmt.Errorf("column %q: %w", p.name, err)
		}
	}
	return append(dst, t.end...), nil
}

func (p *piece) append(dst []byte, text string) ([]byte, error) {
	if p.empty && text == "" {
		return append(dst, "null"...), nil
	}
	if p.kind != stringKind {
		var err error
		if p.kind == numberKind && p.decimalComma {
			if text, err = withPoint(text); err != nil {
				return dst, err
			}
		}
		if text, err = p.kind.check(text); err != nil {
			return dst, err
		}
	}
	switch p.where {
	case inPath, inQuery:
		if text == "" {
			return dst, errors.New("is empty, but is part of the request's path")
		}
		if p.where == inPath {
			return append(dst, url.PathEscape(text)...), nil
		}
		return append(dst, strings.ReplaceAll(url.QueryEscape(text), "+", "%20")...), nil
	case inText:
		quoted := batch.AppendString(nil, text)
		return append(dst, quoted[1:len(quoted)-1]...), nil
	case asValue:
	}
	if p.kind == stringKind {
		return batch.AppendString(dst, text), nil
	}
	return append(dst, text...), nil
}

// decimalCommaNumber matches a number such as 1.234.567,89 or 1 234,5: a decimal comma, and at most
// one kind of separator between groups of three digits. The separator may be a no-break space.
var decimalCommaNumber = regexp.MustCompile(`^[+-]?(\d+|\d{1,3}(\.\d{3})+|\d{1,3}( \d{3})+|\d{1,3}(\x{a0}\d{3})+|\d{1,3}(\x{202f}\d{3})+|\d{1,3}('\d{3})+)(,\d+)?$`)

// withPoint returns a number with a decimal point instead of a comma, and without separators.
func withPoint(text string) (string, error) {
	trimmed := strings.TrimSpace(text)
	if !decimalCommaNumber.MatchString(trimmed) {
		return "", fmt.Errorf("%q is not a number such as 12 or 1.234,50", cut(text))
	}
	return strings.NewReplacer(".", "", " ", "", "\u00a0", "", "\u202f", "", "'", "", "+", "", ",", ".").Replace(trimmed), nil
}

// check converts a text to a JSON value of the type.
func (k kind) check(text string) (string, error) {
	trimmed := strings.TrimSpace(text)
	switch k {
	case boolKind:
		switch strings.ToLower(trimmed) {
		case "true", "1", "yes", "on":
			return "true", nil
		case "false", "0", "no", "off":
			return "false", nil
		}
		return "", fmt.Errorf("%q is not a boolean: use true or false, yes or no, on or off, 1 or 0", cut(text))
	case numberKind:
		if value := jsontext.Value(trimmed); value.IsValid() && value.Kind() == '0' {
			return trimmed, nil
		}
		return "", fmt.Errorf("%q is not a number such as 12 or 1.50", cut(text))
	case jsonKind:
		if jsontext.Value(trimmed).IsValid() {
			return trimmed, nil
		}
		return "", fmt.Errorf("%q is not JSON", cut(text))
	case stringKind:
	}
	return text, nil
}

// cut truncates a text for a message.
func cut(text string) string {
	if r := []rune(text); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return text
}
