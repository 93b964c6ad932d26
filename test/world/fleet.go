package world

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// settleBy is how long "settled" waits unless told otherwise.
const settleBy = 20 * time.Second

func (w *World) newPlace(name string) *place {
	n := byte(len(w.sites) + 1)
	p := &place{name: name, n: n, code: fmt.Sprintf("%04d", n), next: 201}
	w.sites = append(w.sites, p)
	return p
}

func (w *World) place(name string) *place {
	i := slices.IndexFunc(w.sites, func(p *place) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return w.sites[i]
}

// fleet founds a fleet at the first site and lets the others join by token.
func (w *World) fleet(args []string) ([]string, error) {
	for i, name := range args {
		name, pair := strings.CutSuffix(name, "*")
		s := w.newPlace(name)
		letter := byte(0)
		if pair {
			letter = 'a'
		}
		b := w.newBox(s, letter)
		if i == 0 {
			if err := b.start(""); err != nil {
				return nil, fmt.Errorf("%s: %w", b.name, err)
			}
		} else if err := w.admit(w.boxes[0], b); err != nil {
			return nil, err
		}
		if pair {
			if err := w.admit(w.boxes[0], w.newBox(s, 'b')); err != nil {
				return nil, err
			}
		}
	}
	_, err := w.settled(nil)
	return nil, err
}

// token asks a box for an invite for another.
func (w *World) token(inviter, b *box) (string, error) {
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	i, err := inviter.api.CreateInvite(ctx, adminsName, api.NewInvite{Site: b.site.code, SiteName: "Shop " + b.site.name})
	return i.Token, err
}

func (w *World) admit(inviter, b *box) error {
	token, err := w.token(inviter, b)
	if err == nil {
		err = b.start(token)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	return nil
}

// invite D at A makes a token for a site that is not there yet; invite A-b at A
// one for the second box of a pair; invite B-a at A one for a box that replaces.
func (w *World) invite(args []string) ([]string, error) {
	inviter, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "invite D at A")
	}
	if err != nil {
		return nil, err
	}
	siteName, letter := args[0], byte(0)
	if i := strings.IndexByte(siteName, '-'); i > 0 {
		siteName, letter = siteName[:i], siteName[i+1]
	}
	s := w.place(siteName)
	if s == nil {
		s = w.newPlace(siteName)
	}
	b := w.newBox(s, letter)
	token, err := w.token(inviter, b)
	w.tokens[args[0]] = token
	return nil, err
}

// join D switches a new box on with its token; join D with C's tries another's.
func (w *World) join(args []string) ([]string, error) {
	other, args := option(args, "with")
	if err := need(args, 1, "join D"); err != nil {
		return nil, err
	}
	bs, err := w.named(args[0])
	if err != nil {
		return nil, err
	}
	token := w.tokens[args[0]]
	if other != "" {
		token = w.tokens[other]
	}
	return nil, bs[len(bs)-1].start(token)
}

// each does something to all boxes named.
func (w *World) each(args []string, fn func(*box) error) ([]string, error) {
	if len(args) == 0 {
		return nil, errors.New("name a box or a site")
	}
	for _, name := range args {
		bs, err := w.named(name)
		if err != nil {
			return nil, err
		}
		for _, b := range bs {
			if err := fn(b); err != nil {
				return nil, fmt.Errorf("%s: %w", b.name, err)
			}
		}
	}
	return nil, nil
}

func (w *World) restart(args []string) ([]string, error) {
	return w.each(args, func(b *box) error {
		b.stop()
		return b.start("")
	})
}

func (w *World) stops(args []string) ([]string, error) {
	return w.each(args, func(b *box) error {
		b.stop()
		if err := b.wait(); err != nil {
			return err
		}
		return nil
	})
}

func (w *World) kills(args []string) ([]string, error) { return w.each(args, (*box).kill) }

// settled waits until the boxes that are on hold the same and owe nothing.
func (w *World) settled(args []string) ([]string, error) {
	in, args := option(args, "in")
	limit := settleBy
	if in != "" {
		var err error
		if limit, err = time.ParseDuration(in); err != nil {
			return nil, err
		}
	}
	boxes := w.boxes
	if len(args) > 0 {
		boxes = nil
		for _, name := range args {
			bs, err := w.named(name)
			if err != nil {
				return nil, err
			}
			boxes = append(boxes, bs...)
		}
	}
	_, err := until(limit, func() error { return equal(boxes) })
	if err != nil {
		return nil, fmt.Errorf("after %v %w", limit, err)
	}
	if in != "" {
		return []string{"settled within " + in}, nil
	}
	return []string{"settled"}, nil
}

// equal says what is still different, held back or owed.
func equal(boxes []*box) error {
	ctx, cancel := within(time.Second)
	defer cancel()
	first := map[string]string{}
	for _, b := range boxes {
		if b.api == nil {
			continue
		}
		st := b.api.Status(ctx)
		if len(st.Held) > 0 {
			return fmt.Errorf("%s holds %d changes back: %s", b.name, len(st.Held), st.Held[0].Reason)
		}
		if st.Owed.Changes+st.Owed.Outbox+st.Owed.Blobs > 0 {
			return fmt.Errorf("%s owes %d changes, %d to other sites, and waits for %d recordings", b.name, st.Owed.Changes, st.Owed.Outbox, st.Owed.Blobs)
		}
		for _, s := range st.Scopes {
			if f, ok := first[s.Scope]; ok && f != s.Fingerprint {
				return fmt.Errorf("%s has another %s", b.name, s.Scope)
			}
			first[s.Scope] = s.Fingerprint
		}
	}
	return nil
}

func (w *World) revoke(args []string) ([]string, error) {
	b, args, err := w.at(args)
	if err == nil {
		err = need(args, 1, "revoke B at A")
	}
	if err != nil {
		return nil, err
	}
	other, err := w.named(args[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	for _, o := range other {
		if err := b.api.RevokeNode(ctx, adminsName, o.id.String(), []string{"all"}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// showPeers tells how a box sees the others.
func (w *World) showPeers(args []string) (out []string, err error) {
	b, _, err := w.at(args)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	for _, p := range b.api.Status(ctx).Peers {
		for _, o := range w.boxes {
			if o.id.String() == p.Node {
				out = append(out, fmt.Sprintf("%s: %s is %s", b.name, o.name, p.State))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// members tells how many boxes a box takes for members.
func (w *World) members(args []string) ([]string, error) {
	b, _, err := w.at(args)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	st := b.api.Status(ctx)
	return []string{fmt.Sprintf("%s: %d sites, %d boxes", b.name, st.Fleet.Sites, st.Fleet.Nodes)}, nil
}
