package provision

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A format is how a vendor writes settings down.
type format int

const (
	cfg     format = iota // key = value, one to a line, # for comments
	xmlText               // XML 1.0
)

func (f format) mime() string {
	if f == xmlText {
		return "text/xml; charset=utf-8"
	}
	return "text/plain; charset=utf-8"
}

// maxValue bounds one value; the longest real ones are URLs.
const maxValue = 512

// MaxFile bounds a rendered file: a base with 100 handsets has 80 kB.
const MaxFile = 512 << 10

// value says whether s can be said in any format at all.
func value(s string) error {
	if len(s) > maxValue {
		return fmt.Errorf("value of %d octets: at most %d", len(s), maxValue)
	}
	if !utf8.ValidString(s) {
		return errors.New("value that is not UTF-8")
	}
	for _, r := range s {
		// U+2028 and U+2029 end lines for some readers; format characters turn
		// the direction of what is shown.
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Cf, unicode.Co) || r == 0xFFFD || r&0xFFFE == 0xFFFE {
			return fmt.Errorf("value with character %U", r)
		}
	}
	if strings.TrimSpace(s) != s {
		return errors.New("value that begins or ends with a space, which phones lose")
	}
	if strings.Contains(s, "{{") || strings.Contains(s, "<no value>") {
		return errors.New("value that looks like an unfilled template")
	}
	return nil
}

var entities = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;")

// text is s as it may stand in a file of this format.
func (f format) text(s string) (string, error) {
	if err := value(s); err != nil {
		return "", err
	}
	switch {
	case f == xmlText:
		return entities.Replace(s), nil
	case strings.Contains(s, "%NULL%") || strings.Contains(s, "%EMPTY%"):
		return "", errors.New("value that means nothing at all to the phone")
	}
	return s, nil
}

// escape replaces every string in the struct v points to by its text.
func (f format) escape(v any) error { return f.walk(reflect.ValueOf(v).Elem()) }

func (f format) walk(v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		s, err := f.text(v.String())
		if err != nil {
			return err
		}
		v.SetString(s)
	case reflect.Struct:
		for i := range v.NumField() {
			if err := f.walk(v.Field(i)); err != nil {
				return fmt.Errorf("%s: %w", v.Type().Field(i).Name, err)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := f.walk(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Int, reflect.Bool:
	default:
		return fmt.Errorf("a %s has no place in a template", v.Kind())
	}
	return nil
}

// A setting is one thing a file says, by the name the vendor gives it.
type setting struct{ key, value string }

// Lint reads a file as a phone would and says what is wrong with it.
func Lint(k Kind, file []byte) error {
	info, ok := kinds[k]
	if !ok {
		return fmt.Errorf("no kind %q", k)
	}
	_, err := info.format.lint(string(file))
	return err
}

// lint returns the settings of a whole file.
func (f format) lint(text string) ([]setting, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("%d octets: at most %d", len(text), MaxFile)
	}
	for _, left := range []string{"{{", "<no value>", "%!"} {
		if strings.Contains(text, left) {
			return nil, fmt.Errorf("%q was left unfilled", left)
		}
	}
	for _, r := range text {
		if r == utf8.RuneError || unicode.IsControl(r) && r != '\n' {
			return nil, fmt.Errorf("character %U", r)
		}
	}
	if f == xmlText {
		return lintXML(text)
	}
	return lintCfg(text)
}

func lintCfg(text string) (out []setting, err error) {
	seen := map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		key, v, ok := strings.Cut(line, " = ")
		if !ok {
			if key, ok = strings.CutSuffix(line, " ="); !ok {
				return nil, fmt.Errorf("line %d is no setting", i+1)
			}
		}
		if key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.") != "" {
			return nil, fmt.Errorf("line %d: %q is no name of a setting", i+1, key)
		}
		if seen[key] {
			return nil, fmt.Errorf("line %d: %s is set twice", i+1, key)
		}
		seen[key] = true
		out = append(out, setting{key, v})
	}
	return out, nil
}

// maxDepth of elements; the deepest template has five.
const maxDepth = 8

func lintXML(text string) (out []setting, err error) {
	d := xml.NewDecoder(strings.NewReader(text))
	var path []xml.StartElement
	var content strings.Builder
	seen := map[string]bool{}
	roots := 0
	add := func(key, v string) error {
		if seen[key] && !strings.HasSuffix(key, "/hs.RegStatus") {
			return fmt.Errorf("%s is set twice", key)
		}
		seen[key] = true
		out = append(out, setting{key, v})
		return nil
	}
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		switch t := tok.(type) {
		case xml.Directive:
			return nil, errors.New("a document type has no place here")
		case xml.StartElement:
			if len(path) == 0 {
				roots++
			}
			if len(path) >= maxDepth {
				return nil, errors.New("too deep")
			}
			path = append(path, t.Copy())
			content.Reset()
		case xml.CharData:
			content.Write(t)
		case xml.EndElement:
			e := path[len(path)-1]
			path = path[:len(path)-1]
			key, v := e.Name.Local, content.String()
			for _, a := range e.Attr {
				switch a.Name.Local {
				case "idx":
					key += "." + a.Value
				case "name":
					key = a.Value
				case "value", "url":
					v = a.Value
				case "label":
					if err := add(key+".label", a.Value); err != nil {
						return nil, err
					}
				}
			}
			if e.Name.Local == "oper" {
				key = "oper/" + key + "." + v
			}
			if len(path) > 0 && path[len(path)-1].Name.Local == "oper" {
				key = "oper/" + key
			}
			if strings.TrimSpace(v) == "" && strings.Contains(v, "\n") {
				content.Reset()
				continue // a mere group of others
			}
			content.Reset()
			if err := add(key, v); err != nil {
				return nil, err
			}
		}
	}
	if roots != 1 || len(path) != 0 {
		return nil, fmt.Errorf("%d documents in one", roots)
	}
	return out, nil
}
