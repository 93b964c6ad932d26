package node

import (
	"context"
	"fmt"

	"carrierclass.net/ccnode/features/supplementary"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/route"
)

// Arg is what was dialled behind a feature code.
func (c call) Arg() string { return c.c.Arg() }

// wishes are the users' own settings, as their telephones change them.
type wishes struct{ n *Node }

// Set implements supplementary.Wishes. A visitor's settings are his own site's.
func (w wishes) Set(ctx context.Context, by site.Party, s supplementary.Service, number string, on bool) error {
	if by.Site != w.n.member.Site || by.User.IsZero() {
		return fmt.Errorf("%s is not a user of this site: %w", by.AOR.User, site.Forbidden)
	}
	if number != "" {
		if err := w.allowed(by, number); err != nil {
			return err
		}
	}
	var p api.UserPatch
	switch s {
	case supplementary.ForwardAll:
		p.ForwardAll = &number
	case supplementary.ForwardBusy:
		p.ForwardBusy = &number
	case supplementary.ForwardNoAnswer:
		p.ForwardNoAnswer = &number
	case supplementary.DoNotDisturb:
		p.DoNotDisturb = &on
	}
	_, err := (&backend{n: w.n}).PatchUser(ctx, "ext "+by.AOR.User, by.User.String(), "", p)
	return err
}

// allowed says whether calls may be forwarded there: to somewhere that exists,
// that the caller may call himself, and that is neither he nor an emergency
// centre.
func (w wishes) allowed(by site.Party, number string) error {
	if number[0] == '*' || number[0] == '#' { // it would be carried out for who calls
		return fmt.Errorf("forward to a feature code: %w", site.Forbidden)
	}
	to := route.ParseURI(number)
	if route.AOR(view{w.n}, to) == by.AOR {
		return fmt.Errorf("forward to oneself: %w", site.NoSuchNumber)
	}
	switch st := route.Next(view{w.n}, route.Call{From: by, To: to}, nil); st.Kind {
	case route.Emergency:
		return fmt.Errorf("forward to an emergency number: %w", site.Forbidden)
	case route.Reject:
		if st.Cause == site.Refused || st.Cause == site.Busy || st.Cause == site.Offline { // of that person, now
			return nil
		}
		return fmt.Errorf("forward to %s: %w", number, st.Cause)
	}
	return nil
}
