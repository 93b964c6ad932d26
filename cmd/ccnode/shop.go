package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"carrierclass.net/ccnode/internal/site"
)

// shopCommands are the commands for what an administrator keeps; their flags
// are the fields of the records.
func shopCommands(s *settings) []*cobra.Command {
	return []*cobra.Command{
		gatewayCommand(s, recordCommand[site.Trunk](s, "trunk", "trunks", "Lines to the outside", "kind", "via", "server", "number", "disabled")),
		recordCommand[site.Inbound](s, "number", "numbers", "Public numbers and where calls to them go", "to"),
		recordCommand[site.Group](s, "group", "groups", "Numbers that ring several users", "number", "strategy", "members", "overflow"),
		recordCommand[site.Menu](s, "menu", "menus", "Numbers that answer and let the caller choose", "number", "hours"),
		recordCommand[site.Hours](s, "hours", "hours", "Opening hours and night switches", "zone", "text", "override"),
		phoneCommands(s, recordCommand[site.Phone](s, "phone", "phones", "Phones that fetch their settings here", "mac", "vendor", "model", "lines", "place")),
		recordCommand[site.Shop](s, "shop", "shop", "What holds for the whole site", "zone", "address", "callBack", "desk"),
	}
}

func recordCommand[T any](s *settings, one, path, short string, columns ...string) *cobra.Command {
	c := &cobra.Command{Use: one, Short: short}
	at := func(who string) string { return "/" + path + "/" + url.PathEscape(who) }
	show := func(v T) error { return s.show(v, func(t *table) { recordRows(t, v) }) }

	create := &cobra.Command{Use: "create NAME", Short: "Make one", Args: args(1, 1, "a name")}
	fill := recordFlags[T](create.Flags())
	create.RunE = func(cmd *cobra.Command, a []string) error {
		p, err := fill()
		if err != nil {
			return usageError{err}
		}
		p["name"] = a[0]
		v, err := ask[T](cmd, s, http.MethodPost, "/"+path, p)
		if err != nil {
			return err
		}
		return show(v)
	}

	set := &cobra.Command{Use: "set NAME", Short: "Change the fields that are given", Args: args(1, 1, "a name or id")}
	change := recordFlags[T](set.Flags())
	rename := set.Flags().String("name", "", "new name")
	set.RunE = func(cmd *cobra.Command, a []string) error {
		p, err := change()
		if err != nil {
			return usageError{err}
		}
		if *rename != "" {
			p["name"] = *rename
		}
		if len(p) == 0 {
			return usageError{fmt.Errorf("nothing to change; see \"%s --help\" for the fields", cmd.CommandPath())}
		}
		v, err := ask[T](cmd, s, http.MethodPatch, at(a[0]), p)
		if err != nil {
			return err
		}
		return show(v)
	}

	get := &cobra.Command{Use: "get NAME", Short: "Show one", Args: args(1, 1, "a name or id"), RunE: func(cmd *cobra.Command, a []string) error {
		v, err := ask[T](cmd, s, http.MethodGet, at(a[0]), nil)
		if err != nil {
			return err
		}
		return show(v)
	}}
	list := &cobra.Command{Use: "list", Short: "List them", Args: args(0, 0, "nothing"), RunE: func(cmd *cobra.Command, _ []string) error {
		vs, err := ask[[]T](cmd, s, http.MethodGet, "/"+path, nil)
		if err != nil {
			return err
		}
		return s.show(vs, func(t *table) {
			head := []any{"NAME"}
			for _, col := range columns {
				head = append(head, strings.ToUpper(words(col, " ")))
			}
			t.row(head...)
			for _, v := range vs {
				row := []any{any(&v).(interface{ Record() *site.Head }).Record().Name}
				for _, col := range columns {
					for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
						if jsonName(f) == col {
							row = append(row, dash(cell(reflect.ValueOf(v).FieldByIndex(f.Index))))
						}
					}
				}
				t.row(row...)
			}
		})
	}}
	del := &cobra.Command{Use: "delete NAME", Short: "Delete one", Args: args(1, 1, "a name or id"), RunE: func(cmd *cobra.Command, a []string) error {
		cl, err := s.client()
		if err != nil {
			return err
		}
		return cl.Do(cmd.Context(), http.MethodDelete, at(a[0]), nil, nil, "")
	}}
	c.AddCommand(create, set, get, list, del)
	return c
}

func jsonName(f reflect.StructField) string {
	n, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return n
}

// words makes "call-back" of "callBack".
func words(s, sep string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteString(sep)
			r |= 0x20
		}
		b.WriteRune(r)
	}
	return b.String()
}

// cell is a field in words; "" for what is not set.
func cell(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Bool:
		if v.Bool() {
			return "yes"
		}
		return ""
	}
	if v.IsZero() || (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0 {
		return ""
	}
	switch x := v.Interface().(type) {
	case []string:
		return strings.Join(x, ",")
	case fmt.Stringer:
		return x.String()
	}
	if v.CanInt() {
		return fmt.Sprint(v.Int())
	}
	b, err := json.Marshal(v.Interface())
	if err != nil {
		return "?"
	}
	return string(b)
}

func recordRows[T any](t *table, v T) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if n := jsonName(f); n != "" && n != "etag" && !f.Anonymous {
			if c := cell(reflect.ValueOf(v).FieldByIndex(f.Index)); c != "" && c != "{}" {
				t.row(words(n, " "), c)
			}
		}
	}
}

// recordFlags adds a flag for each field and returns what makes the patch of
// those that were given.
func recordFlags[T any](f *pflag.FlagSet) func() (map[string]any, error) {
	var given []func(map[string]any) error
	var add func(t reflect.Type, prefix string, into ...string)
	add = func(t reflect.Type, prefix string, into ...string) {
		for _, x := range reflect.VisibleFields(t) {
			n := jsonName(x)
			if x.Anonymous || n == "" || n == "-" || prefix == "" && slices.Contains([]string{"id", "etag", "name", "deleted", "tested"}, n) {
				continue
			}
			name, help := prefix+words(n, "-"), x.Tag.Get("doc")
			if e := x.Tag.Get("enum"); e != "" {
				help = strings.TrimPrefix(help+"; ", "; ") + strings.ReplaceAll(e, ",", " or ")
			}
			path := append(slices.Clone(into), n)
			put := func(value func() (any, error)) {
				given = append(given, func(p map[string]any) error {
					if !f.Changed(name) {
						return nil
					}
					v, err := value()
					if err != nil {
						return fmt.Errorf("--%s: %w", name, err)
					}
					for _, k := range path[:len(path)-1] {
						next, ok := p[k].(map[string]any)
						if !ok {
							next = map[string]any{}
							p[k] = next
						}
						p = next
					}
					p[path[len(path)-1]] = v
					return nil
				})
			}
			switch k := x.Type.Kind(); {
			case k == reflect.Struct:
				add(x.Type, name+"-", path...)
			case k == reflect.Bool:
				v := f.Bool(name, false, help)
				put(func() (any, error) { return *v, nil })
			case k == reflect.Int, k == reflect.Int64:
				v := f.Int64(name, 0, help)
				put(func() (any, error) { return *v, nil })
			case k == reflect.String && strings.HasSuffix(x.Tag.Get("cell"), ",secret"):
				v := f.String(name, "", strings.TrimPrefix(help+"; ", "; ")+"- reads it from the standard input")
				put(func() (any, error) { return fromInput(*v) })
			case k == reflect.String:
				v := f.String(name, "", help)
				put(func() (any, error) { return *v, nil })
			case x.Type == reflect.TypeFor[[]string]():
				v := f.StringSlice(name, nil, help)
				put(func() (any, error) { return *v, nil })
			case x.Type == reflect.TypeFor[map[string]string]():
				v := f.StringToString(name, nil, help)
				put(func() (any, error) { return *v, nil })
			default:
				v := f.String(name, "", strings.TrimPrefix(help+"; ", "; ")+"as JSON")
				put(func() (out any, err error) { return out, json.Unmarshal([]byte(*v), &out) })
			}
		}
	}
	add(reflect.TypeFor[T](), "")
	return func() (map[string]any, error) {
		p := map[string]any{}
		for _, fn := range given {
			if err := fn(p); err != nil {
				return nil, err
			}
		}
		return p, nil
	}
}

// fromInput keeps a secret out of the list of processes.
func fromInput(v string) (string, error) {
	if v != "-" {
		return v, nil
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", fmt.Errorf("read it from the standard input: %w", err)
	}
	return line, nil
}
