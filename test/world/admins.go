package world

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

const adminsPassword = "correct horse battery"

// as is who asks a box: whoever is logged in there, or its console.
func (b *box) as(d time.Duration) (context.Context, string, context.CancelFunc, error) {
	ctx, cancel := within(d)
	if b.token == "" {
		return ctx, b.who(), cancel, nil
	}
	ctx, s, err := b.api.(api.Sessions).Who(ctx, b.token)
	if err != nil {
		cancel()
		return nil, "", nil, err
	}
	return ctx, s.Name, cancel, nil
}

func (w *World) appoint(args []string) ([]string, error) {
	n := api.NewAdmin{Fleet: true, Password: adminsPassword}
	if i := slices.Index(args, "of"); i > 0 {
		n.Fleet = false
		for _, name := range args[i+1:] {
			bs, err := w.named(name)
			if err != nil {
				return nil, err
			}
			n.Sites = append(n.Sites, bs[0].site.code)
		}
		args = args[:i]
	}
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "appoint ann at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	n.Name = args[0]
	_, err = b.api.(api.Sessions).CreateAdmin(ctx, b.who(), n)
	return nil, err
}

func (w *World) login(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "login ann at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	s, err := b.api.(api.Sessions).LogIn(ctx, "console", api.LogIn{Name: args[0], Password: adminsPassword})
	b.token = s.Token
	return nil, err
}

func (w *World) logout(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil && len(args) > 0 {
		err = errors.New("write it like: logout at A")
	}
	if err == nil {
		b.api.(api.Sessions).LogOut(b.token)
		b.token = ""
	}
	return nil, err
}

func (w *World) dismiss(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "dismiss ann at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	_, err = b.api.(api.Sessions).RevokeAdmin(ctx, b.who(), args[0])
	return nil, err
}

// away gives two sites of three other names, by who keeps the first one's state:
// that is drawn anew in every run.
func (w *World) away(args []string) ([]string, error) {
	if len(args) != 4 || args[2] != "from" {
		return nil, errors.New("write it like: away V W from A")
	}
	var free, keeps []*box
	for _, b := range w.boxes {
		ctx, cancel := within(time.Second)
		st := b.api.Status(ctx)
		cancel()
		switch {
		case b.site.name == args[3]:
		case slices.Contains(st.Keeps, w.byName(args[3]).site.code):
			keeps = append(keeps, b)
		default:
			free = append(free, b)
		}
	}
	if len(keeps) != 1 || len(free) != 1 {
		return nil, fmt.Errorf("%d boxes keep %s, %d do not", len(keeps), args[3], len(free))
	}
	w.called = map[string]string{args[0]: free[0].name, args[1]: keeps[0].name}
	return nil, nil
}

func (w *World) byName(name string) *box {
	return w.boxes[slices.IndexFunc(w.boxes, func(b *box) bool { return b.name == name })]
}

// rename has an output say the names that away gave.
func (w *World) rename(said string) string {
	for alias, real := range w.called {
		b := w.byName(real)
		said = strings.ReplaceAll(said, b.site.code, strings.Repeat(alias, len(b.site.code)))
		said = regexp.MustCompile(`\b`+real+`\b`).ReplaceAllString(said, alias)
	}
	return said
}

func (w *World) owes(args []string) (out []string, err error) {
	b, args, err := w.at(args)
	if err == nil && len(args) > 0 {
		err = errors.New("write it like: owes at A")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	for _, x := range b.api.Status(ctx).Owed.Sites {
		out = append(out, fmt.Sprintf("%s: %d changes wait for site %s since %s", b.name, x.Changes, x.Site, x.Since.Format("15:04")))
	}
	return out, nil
}
