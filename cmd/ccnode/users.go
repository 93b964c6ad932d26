package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func userPath(who string) string { return "/users/" + url.PathEscape(who) }

func userCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Create, change, list and delete users"}
	var n api.NewUser
	create := &cobra.Command{
		Use: "create NUMBER", Short: "Create a user and a phone's log-in",
		Example: "  ccnode user create 201 --name Ana",
		Args:    args(1, 1, "a number, such as 201"),
		RunE: func(cmd *cobra.Command, a []string) error {
			n.Number = a[0]
			u, err := ask[api.User](cmd, s, http.MethodPost, "/users", n)
			if err != nil {
				return err
			}
			return s.show(u, func(t *table) {
				t.row("user", u.Number, u.Name)
				for _, d := range u.Devices {
					t.row("phone log-in", d.SIPUser)
					t.row("password", dash(d.Password))
					t.row("servers", strings.Join(d.Servers, ", "))
					t.row("realm", d.Realm)
				}
			})
		},
	}
	f := create.Flags()
	f.StringVar(&n.Name, "name", "", "name shown to others")
	f.StringVar(&n.Site, "site", "", "code of the home site (default this one)")
	f.StringVar(&n.Password, "password", "", "phone password (default: a strong one is made)")
	f.StringVar(&n.PIN, "pin", "", "voicemail PIN, 4 to 12 digits")
	f.StringVar(&n.E164, "e164", "", "public number, such as +33472001201")

	var find api.UserSearch
	list := &cobra.Command{
		Use: "list [TEXT]", Short: "List users, those of other sites as the directory has them", Args: args(0, 1, "a part of a name or a number"),
		Example: "  ccnode user list\n  ccnode user list ana\n  ccnode user list --home 0017",
		RunE: func(cmd *cobra.Command, a []string) error {
			q := url.Values{"deleted": {fmt.Sprint(find.Deleted)}, "home": {find.Home}}
			if len(a) > 0 {
				q.Set("q", a[0])
			}
			cl, err := s.client()
			if err != nil {
				return err
			}
			us := []api.User{}
			for {
				var some []api.User
				next, err := cl.Page(cmd.Context(), "/users?"+q.Encode(), &some)
				if err != nil {
					return err
				}
				us = append(us, some...)
				if next == "" {
					break
				}
				q.Set("after", next)
			}
			return s.show(us, func(t *table) {
				t.row("NUMBER", "NAME", "SITE", "STATE", "HEARD", "ID")
				for _, u := range us {
					t.row(u.Number, dash(u.Name), u.Site, userState(u), heard(u.AsOf), u.ID)
				}
			})
		},
	}
	list.Flags().BoolVar(&find.Deleted, "deleted", false, "also those that were deleted and can be restored")
	list.Flags().StringVar(&find.Home, "home", "", "code of a site: its users only")

	get := &cobra.Command{
		Use: "get USER", Short: "Show one user", Args: args(1, 1, "a number, name or id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			u, err := ask[api.User](cmd, s, http.MethodGet, userPath(a[0]), nil)
			if err != nil {
				return err
			}
			return s.show(u, func(t *table) { userRows(t, u) })
		},
	}
	c.AddCommand(create, importCommand(s), setCommand(s), list, get,
		userVerb(s, "delete", "Delete a user; 30 days to restore", func(p *api.UserPatch) { p.Deleted = ptr(true) }),
		userVerb(s, "restore", "Bring a deleted user back", func(p *api.UserPatch) { p.Deleted = ptr(false) }),
		userVerb(s, "disable", "Shut a user out; wins over everything done meanwhile elsewhere", func(p *api.UserPatch) { p.Disabled = ptr(true) }),
		userVerb(s, "enable", "Let a disabled user in again", func(p *api.UserPatch) { p.Disabled = ptr(false) }))
	return c
}

func ptr[T any](v T) *T { return &v }

func userVerb(s *settings, verb, short string, set func(*api.UserPatch)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " USER", Short: short, Args: args(1, 1, "a number, name or id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			var p api.UserPatch
			set(&p)
			return patch(cmd, s, a[0], p)
		},
	}
}

func patch(cmd *cobra.Command, s *settings, who string, p api.UserPatch) error {
	u, err := ask[api.User](cmd, s, http.MethodPatch, userPath(who), p)
	if err != nil {
		return err
	}
	return s.show(u, func(t *table) { userRows(t, u) })
}

func setCommand(s *settings) *cobra.Command {
	var (
		str  = map[string]*string{}
		dnd  bool
		ask  bool
		ring int
		sec  bool
	)
	set := &cobra.Command{
		Use: "set USER", Short: "Change a user's fields",
		Example: "  ccnode user set 201 --forward-all 202 --dnd=false",
		Args:    args(1, 1, "a number, name or id"),
	}
	f := set.Flags()
	for name, help := range map[string]string{
		"number": "new extension or full number", "name": "name shown to others", "e164": "public number",
		"forward-all": "forward every call there; \"\" ends it", "forward-busy": "forward when busy",
		"forward-no-answer": "forward when nobody answers", "forward-offline": "forward when no phone is registered",
		"class": "how far out: internal, national or international; \"\" as the shop's record says",
		"pin":   "voicemail PIN, 4 to 12 digits", "password": "phone password; \"\" makes a strong one",
	} {
		str[name] = f.String(name, "", help)
	}
	f.BoolVar(&dnd, "dnd", false, "do not disturb")
	f.BoolVar(&ask, "always-pin", false, "the mailbox asks for the PIN on the user's own phone too")
	f.IntVar(&ring, "ring", 20, "seconds to ring before voicemail, 5 to 120")
	f.BoolVar(&sec, "security-reset", false, "with --password or --pin: the new one alone counts")
	set.RunE = func(cmd *cobra.Command, a []string) error {
		p := api.UserPatch{SecurityReset: sec}
		for name, dst := range map[string]**string{"number": &p.Number, "name": &p.Name, "e164": &p.E164,
			"forward-all": &p.ForwardAll, "forward-busy": &p.ForwardBusy, "forward-no-answer": &p.ForwardNoAnswer,
			"forward-offline": &p.ForwardOffline, "class": &p.Class, "pin": &p.PIN, "password": &p.Password} {
			if f.Changed(name) {
				*dst = str[name]
			}
		}
		if f.Changed("dnd") {
			p.DoNotDisturb = &dnd
		}
		if f.Changed("always-pin") {
			p.AlwaysPIN = &ask
		}
		if f.Changed("ring") {
			p.RingSeconds = &ring
		}
		if p == (api.UserPatch{SecurityReset: sec}) {
			return usageError{fmt.Errorf("nothing to change; name a field, see \"ccnode user set --help\"")}
		}
		return patch(cmd, s, a[0], p)
	}
	return set
}

func userState(u api.User) string {
	switch {
	case u.Deleted:
		return "deleted"
	case u.Disabled:
		return "disabled"
	case len(u.Clash) > 0:
		return "number clash"
	}
	return "ok"
}

func heard(f api.Freshness) string {
	switch {
	case f.Here:
		return "here"
	case f.Trouble != nil:
		return ago(f.Heard) + ", not reached since " + f.Trouble.Local().Format("15:04:05")
	}
	return ago(f.Heard)
}

func userRows(t *table, u api.User) {
	t.row("number", u.Number)
	t.row("name", dash(u.Name))
	t.row("site", u.Site)
	t.row("state", userState(u))
	for _, x := range [][2]string{{"public number", u.E164}, {"forward all", u.ForwardAll}, {"forward busy", u.ForwardBusy},
		{"forward no answer", u.ForwardNoAnswer}, {"forward offline", u.ForwardOffline},
		{"may call", u.Class}} {
		if x[1] != "" {
			t.row(x[0], x[1])
		}
	}
	for _, w := range u.Waiting {
		t.row("waits for site "+u.Site, w)
	}
	if u.DoNotDisturb {
		t.row("do not disturb", "on")
	}
	if u.AlwaysPIN {
		t.row("mailbox", "always asks for the PIN")
	}
	if u.RingSeconds > 0 {
		t.row("rings", fmt.Sprintf("%d s", u.RingSeconds))
	}
	if u.Messages != nil {
		t.row("voicemail", fmt.Sprintf("%d new, %d old", u.Messages.New, u.Messages.Old))
	}
	for _, d := range u.Devices {
		t.row("phone log-in", d.SIPUser)
		if d.Password != "" {
			t.row("password", d.Password)
		}
	}
	if len(u.Clash) > 0 {
		t.row("number clash with", strings.Join(u.Clash, ", ")+"; renumber one: ccnode user set ID --number NEW")
	}
	t.row("as of", heard(u.AsOf))
	t.row("id", u.ID)
}

func whereCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "where USER", Short: "Where a user can be reached", Args: args(1, 1, "a number, name or id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			l, err := ask[api.Location](cmd, s, http.MethodGet, userPath(a[0])+"/where", nil)
			if err != nil {
				return err
			}
			return s.show(l, func(t *table) {
				t.row("user", l.User.Number, dash(l.User.Name))
				t.row("home site", l.User.Site, heard(l.AsOf))
				for _, c := range l.Contacts {
					t.row("phone", c.Contact, c.Transport, "from "+c.Source, "at "+c.Node, dash(c.Agent))
				}
				if len(l.Contacts) == 0 && l.AsOf.Here {
					t.row("phone", "none registered")
				}
			})
		},
	}
}
