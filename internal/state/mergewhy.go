package state

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// KeepBoth names, for Keep, what all sides say together.
const KeepBoth = "both"

// A Policy's name, for those who read a merge.
func (p Policy) String() string {
	switch p {
	case LatestReset:
		return "latest-reset"
	case True:
		return "true"
	case Kept:
		return "kept"
	case Each:
		return "each"
	case Derived:
		return "derived"
	}
	return "latest"
}

// why says in words why the value in force is in force.
func why(f field, vs []crdt.Version) string {
	reset := func() bool {
		return slices.ContainsFunc(vs, func(x crdt.Version) bool { return x.Flags&crdt.Reset != 0 })
	}
	switch {
	case f.set:
		return "an addition wins over a removal that had not seen it"
	case f.policy == True:
		return "\"" + f.name + "\" wins over whatever had not seen it; who has seen both may undo it"
	case f.policy == Kept:
		return "a message that somebody saved is not in the trash"
	case (f.policy == Each || f.policy == LatestReset) && reset():
		return "a security reset counts alone"
	case f.policy == Each:
		return "all of them are accepted until one is chosen, for 7 days at most; then the newest"
	}
	return "the newest counts"
}

// listed says whether a field's values are lists, of which there can be both.
func listed(c crdt.Cell) (reflect.Type, bool) {
	t, ok := byTable[c.Table]
	if !ok {
		return nil, false
	}
	for _, f := range shapes[t].fields {
		if f.cell != c.Field || f.secret || f.set {
			continue
		}
		x := t.FieldByIndex(f.index).Type
		return x, x == reflect.TypeFor[[]string]() || x == reflect.TypeFor[site.MenuPart]() || x == reflect.TypeFor[[]site.Key]()
	}
	return nil, false
}

// both is what the versions of a cell say together, newest first; false where
// that makes no sense: two names, or two meanings of one key of a menu.
func both(c crdt.Cell, vs []crdt.Version) (value []byte, ok bool) {
	t, ok := listed(c)
	if !ok || len(vs) < 2 {
		return nil, false
	}
	all := reflect.New(t)
	for i, x := range slices.Backward(vs) {
		one := reflect.New(t)
		if len(x.Value) > 0 && !unmarshal(x.Value, one.Interface()) {
			return nil, false
		}
		if i == len(vs)-1 {
			all = one
			continue
		}
		switch a := all.Interface().(type) {
		case *[]string:
			for _, e := range *one.Interface().(*[]string) {
				if !slices.Contains(*a, e) {
					*a = append(*a, e)
				}
			}
		case *[]site.Key:
			for _, e := range *one.Interface().(*[]site.Key) {
				if !slices.Contains(*a, e) {
					*a = append(*a, e)
				}
			}
		case *site.MenuPart:
			if !joinParts(a, one.Interface().(*site.MenuPart)) {
				return nil, false
			}
		}
	}
	value = encode(all.Elem())
	if len(value) == 0 || slices.ContainsFunc(vs, func(x crdt.Version) bool { return bytes.Equal(x.Value, value) }) {
		return nil, false // one side says it all
	}
	return value, true
}

// joinParts adds b to a, if nothing of it contradicts a.
func joinParts(a, b *site.MenuPart) bool {
	for _, x := range []struct {
		a *string
		b string
	}{{&a.Prompt, b.Prompt}, {&a.Audio, b.Audio}, {&a.Forward, b.Forward}} {
		if *x.a != "" && x.b != "" && *x.a != x.b {
			return false
		}
		*x.a = cmp.Or(*x.a, x.b)
	}
	keys := map[string]string{}
	for k, v := range a.Keys {
		keys[k] = v
	}
	for k, v := range b.Keys {
		if keys[k] != "" && keys[k] != v {
			return false
		}
		keys[k] = v
	}
	if a.Keys = keys; len(keys) == 0 {
		a.Keys = nil
	}
	return true
}

// listWords writes a decoded list as a person reads it.
func listWords(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []string:
		return strings.Join(x, ", ")
	case []site.Key:
		var out []string
		for _, k := range x {
			out = append(out, strings.TrimSpace(k.Type+" "+k.Value))
		}
		return strings.Join(out, ", ")
	case site.MenuPart:
		var out []string
		for k, to := range x.Keys {
			out = append(out, k+"="+to)
		}
		slices.Sort(out)
		for _, e := range [][2]string{{"prompt ", x.Prompt}, {"recording ", x.Audio[:min(len(x.Audio), 8)]}, {"forward ", x.Forward}} {
			if e[1] != "" {
				out = append(out, e[0]+e[1])
			}
		}
		return strings.Join(out, ", ")
	case site.Profile:
		var out []string
		for i := range v.NumField() {
			if n, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); !v.Field(i).IsZero() {
				out = append(out, n+" "+fmt.Sprint(v.Field(i).Interface()))
			}
		}
		return strings.Join(out, ", ")
	case int64: // the end of a night switch
		return time.Unix(x, 0).UTC().Format("2006-01-02 15:04 UTC")
	case site.EmergencyTest:
		return x.At.UTC().Format(time.DateTime) + " by " + x.By + ": " + x.Result
	}
	return fmt.Sprint(v.Interface())
}

// shaped is the value of an administrator's record in words.
func shaped(c crdt.Cell, value []byte) (string, bool) {
	t, ok := byTable[c.Table]
	if !ok {
		return "", false
	}
	for _, f := range shapes[t].fields {
		if f.cell != c.Field {
			continue
		}
		x := t.FieldByIndex(f.index).Type
		switch x.Kind() {
		case reflect.String:
			return "", false
		case reflect.Bool:
			return yes(isTrue(value)), true
		case reflect.Int:
			return strconv.Itoa(toInt(value)), true
		}
		v := reflect.New(x)
		if len(value) == 0 {
			return shownEmpty, true
		}
		if !unmarshal(value, v.Interface()) {
			return "", false
		}
		if s := listWords(v.Elem()); s != "" {
			return s, true
		}
		return shownEmpty, true
	}
	return "", false
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
