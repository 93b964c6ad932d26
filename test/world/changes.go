package world

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

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
