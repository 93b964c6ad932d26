package world

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
)

// who is the name of the person at a box.
func (b *box) who() string { return adminsName + "@" + b.name }

// alter changes a record as a person does who sees what the box shows.
func (w *World) alter(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil && len(args) < 3 {
		err = errors.New("write it like: alter group sales add ben at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	value := strings.Join(args[3:], " ")
	shop := b.api.Shop()
	switch args[0] {
	case "group":
		_, err = shop.Groups.Change(ctx, b.who(), args[1], "", func(g *site.Group) error {
			switch args[2] {
			case "add":
				g.Members = append(g.Members, w.id(value))
			case "remove":
				g.Members = slices.DeleteFunc(g.Members, func(m string) bool { return m == w.id(value) })
			case "number":
				g.Number = value
			case "overflow":
				g.Overflow = value
			case "delete":
				g.Deleted = true
			default:
				return fmt.Errorf("no way to %s a group", args[2])
			}
			return nil
		})
	case "menu":
		_, err = shop.Menus.Change(ctx, b.who(), args[1], "", func(m *site.Menu) error {
			k, to, ok := strings.Cut(value, "=")
			if args[2] != "key" || !ok {
				return fmt.Errorf("no way to %s a menu", args[2])
			}
			keys := maps.Clone(m.Open.Keys)
			keys[k] = to
			m.Open.Keys = keys
			return nil
		})
	default:
		err = fmt.Errorf("no such kind: %s", args[0])
	}
	return nil, err
}

// remove deletes a user.
func (w *World) remove(args []string) ([]string, error) {
	if len(args) != 3 {
		return nil, errors.New("write it like: delete bob at A")
	}
	return w.edit([]string{args[0], "deleted", "true", args[1], args[2]})
}

func (w *World) file(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 3, "file ana 1 trash at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	ms, err := b.api.Messages(ctx, w.id(args[0]))
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 1 || n > len(ms) {
		return nil, fmt.Errorf("there are %d messages", len(ms))
	}
	return nil, b.api.MoveMessage(ctx, b.who(), w.id(args[0]), ms[n-1].ID, args[2])
}

func (w *World) shares(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "shares sales at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	g, err := b.api.Shop().Groups.Get(ctx, args[0])
	if err != nil {
		return []string{b.name + ": " + err.Error()}, nil
	}
	var names []string
	for _, m := range g.Members {
		for who, p := range w.phones {
			if p.user.ID.String() == m {
				names = append(names, who)
			}
		}
	}
	slices.Sort(names)
	return []string{b.name + ": " + g.Name + " is " + strings.Join(names, " ")}, nil
}

// history ana name at A tells who changed a field, newest first; without a
// field, all of them.
func (w *World) history(args []string) (out []string, err error) {
	b, args, err := w.at(args)
	if err == nil && (len(args) < 1 || len(args) > 2) {
		err = errors.New("write it like: history ana name at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	h, err := b.api.History(ctx, "", w.id(args[0]))
	if err != nil {
		_, why, _ := strings.Cut(err.Error(), ": ") // not the id
		return []string{b.name + ": " + why}, nil
	}
	for _, c := range h.Changes {
		for _, f := range c.Fields {
			if len(args) == 2 && f.Field != strings.ReplaceAll(args[1], "_", " ") {
				continue
			}
			old := "?"
			if f.Old != nil {
				old = fmt.Sprintf("%q", *f.Old)
			}
			out = append(out, fmt.Sprintf("%s: %s %s: %s -> %q by %s at box %s, %s", b.name, c.At.UTC().Format("15:04"), f.Field, old, f.New, c.By, c.Node, f.State))
		}
	}
	return append(out, fmt.Sprintf("%s: remembers since %s", b.name, h.Since.UTC().Format("15:04"))), nil
}

// undo ana name 1 at A [yes] undoes the newest change, or an older one, of that field.
func (w *World) undo(args []string) ([]string, error) {
	yes := len(args) > 0 && args[len(args)-1] == "yes"
	if yes {
		args = args[:len(args)-1]
	}
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 3, "undo ana name 1 at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	h, err := b.api.History(ctx, "", w.id(args[0]))
	if err != nil {
		return nil, err
	}
	n, _ := strconv.Atoi(args[2])
	for _, c := range h.Changes {
		for _, f := range c.Fields {
			if f.Field != strings.ReplaceAll(args[1], "_", " ") {
				continue
			}
			if n--; n != 0 {
				continue
			}
			x, err := b.api.Undo(ctx, b.who(), c.ID, yes)
			var e *api.Error
			if errors.As(err, &e) {
				_, what, _ := strings.Cut(e.Error(), ": ") // the change's id differs from run to run
				return []string{b.name + ": refused: " + what}, nil
			}
			var out []string
			for _, f := range x.Fields {
				out = append(out, fmt.Sprintf("%s: %s of %s was %q, is %q", b.name, f.Field, f.Record, *f.Old, f.New))
			}
			return out, err
		}
	}
	return nil, fmt.Errorf("%s was not changed so often", args[1])
}
