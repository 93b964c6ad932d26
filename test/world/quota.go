package world

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
)

// share is what one box may have others keep, in changes of one scope, for boxes
// that are started from now on.
func (w *World) share(args []string) ([]string, error) {
	if err := need(args, 1, "share 60"); err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(args[0])
	w.quota = crdt.DefaultQuota()
	w.quota.Changes = n
	return nil, err
}

// crowd makes users without telephones, as many as asked for.
func (w *World) crowd(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "crowd 80 at C")
	}
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(60 * time.Second)
	defer cancel()
	for i := range n {
		number := strconv.Itoa(b.site.next)
		b.site.next++
		if _, err := b.api.CreateUser(ctx, adminsName, api.NewUser{Number: number, Name: fmt.Sprint("Crowd ", i+1)}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// heldBack says of whom a box holds changes, what they wait for, and what a
// person is warned of.
func (w *World) heldBack(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 0, "held at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	hs, err := b.api.(api.HeldKeeper).HeldChanges(ctx)
	out := []string{}
	for _, h := range hs {
		out = append(out, fmt.Sprintf("%s holds changes of %s: %s", b.name, box2(h.Node), h.Why))
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) == 0 {
		out = []string{b.name + " holds nothing back"}
	}
	for _, x := range b.api.Status(ctx).Warnings {
		if strings.Contains(x, "clock of this box is") {
			out = append(out, b.name+" warns: "+x)
		}
		if strings.Contains(x, "more than its share") {
			out = append(out, b.name+" warns: "+box2(x)+" writes more than its share")
		}
	}
	return out, err
}

// box2 is the first two labels of a box's name: its own, and its site's.
func box2(name string) string {
	labels := strings.SplitN(name, ".", 3)
	return strings.Join(labels[:min(len(labels), 2)], ".")
}

// alike compares what two boxes have of what all hold.
func (w *World) alike(args []string) ([]string, error) {
	if err := need(args, 2, "alike A B"); err != nil {
		return nil, err
	}
	var got [2]string
	for i, name := range args {
		b, err := w.asked(name)
		if err != nil {
			return nil, err
		}
		ctx, cancel := within(time.Second)
		for _, sc := range b.api.Status(ctx).Scopes {
			if sc.Scope == "fleet" {
				got[i] = fmt.Sprintf("%d changes, %s", sc.Changes, sc.Fingerprint)
			}
		}
		cancel()
	}
	if got[0] != got[1] || got[0] == "" {
		return []string{fmt.Sprintf("%s has %s; %s has %s", args[0], got[0], args[1], got[1])}, nil
	}
	return []string{args[0] + " and " + args[1] + " hold the same"}, nil
}
