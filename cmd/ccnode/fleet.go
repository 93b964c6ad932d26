package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/skip2/go-qrcode"
	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func statusCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "What this node knows of itself and of the fleet", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := ask[api.Status](cmd, s, http.MethodGet, "/status", nil)
			if err != nil {
				return err
			}
			return s.show(st, func(t *table) { statusRows(t, st) })
		},
	}
}

func statusRows(t *table, st api.Status) {
	t.row("me", st.Node.Name, "site "+st.Node.SiteCode+" "+st.Node.SiteName, "up since "+st.Node.Started.Local().Format("2006-01-02 15:04"), st.Version)
	if st.Pair != nil {
		t.row("pair", st.Pair.Name, st.Pair.State, "heard "+ago(st.Pair.Heard), fmt.Sprintf("owed %d", st.Pair.Owed))
	}
	t.row("fleet", st.Fleet.Name, st.Fleet.Domain, fmt.Sprintf("%d sites, %d nodes, %d users", st.Fleet.Sites, st.Fleet.Nodes, st.Users))
	t.row("phones", fmt.Sprintf("%d here", st.Phones), fmt.Sprintf("calls %d", st.Calls), fmt.Sprintf("merges %d open", st.Merges))
	for _, p := range st.Peers {
		why := p.State
		if p.Since != nil {
			why += " since " + p.Since.Local().Format("15:04:05")
		}
		t.row("peer", p.Name, why, "heard "+ago(p.Heard), fmt.Sprintf("owed %d", p.Owed))
	}
	t.row("owed", fmt.Sprintf("%d changes to %d peers", st.Owed.Changes, st.Owed.Peers), fmt.Sprintf("outbox %d", st.Owed.Outbox), fmt.Sprintf("recordings %d", st.Owed.Blobs))
	for _, x := range st.Owed.Sites {
		t.row("waits", fmt.Sprintf("%d changes for site %s", x.Changes, x.Site), "since "+moment(x.Since))
	}
	if k := st.Node.RecordingsKbit; k > 0 {
		t.row("recordings", fmt.Sprintf("at most %d kbit/s to another site", k))
	}
	for _, l := range st.Trunks {
		t.row("trunk", l.Name, "via "+l.Via, l.State)
	}
	if e := st.Urgent; e != nil {
		by := "found no line"
		if e.Trunk != "" {
			by = "by " + e.Trunk
		}
		t.row("emergency", e.At.Local().Format("2006-01-02 15:04:05"), e.Number+" called by "+e.Name+" "+e.From, by)
	}
	if len(st.Trunks) > 0 {
		t.row(testedWords(st.Tested)...)
	}
	for _, k := range st.Keepers {
		t.row("kept at", "site "+k.Site, map[string]string{"takes": "is being sent all", "keeps": "has all", "leaves": "need not keep it any more"}[k.State])
	}
	if len(st.Keeps) > 0 {
		t.row("keeps", "the state of site "+strings.Join(st.Keeps, ", "))
	}
	t.row("only here", fmt.Sprintf("%d changes, %d recordings, %s would die with this box", st.Only.Changes, st.Only.Blobs, size(st.Only.Bytes)))
	for _, sc := range st.Scopes {
		done := ""
		if !sc.Complete {
			done = fmt.Sprintf("still filling: %d %%", sc.Percent)
		}
		t.row("scope", sc.Scope, fmt.Sprintf("%d changes", sc.Changes), sc.Fingerprint, done)
	}
	if st.Only.Held > 0 {
		t.row("only here", fmt.Sprintf("%d of the changes that are held", st.Only.Held))
	}
	for _, h := range st.Held {
		t.row("held", short(h.ID), "of "+h.Node, h.Reason)
	}
	if st.Waiting > 0 {
		t.row("held", fmt.Sprintf("%d changes wait; next: ccnode held list", st.Waiting))
	}
	if st.ReadOnly != "" {
		t.row("READ ONLY", st.ReadOnly)
	}
	for _, w := range st.Warnings {
		t.row("warning", w)
	}
}

func inviteCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "invite", Short: "Tokens that admit a box, once"}
	var n api.NewInvite
	var qr bool
	create := &cobra.Command{
		Use: "create", Short: "Make a token for one box", Args: args(0, 0, "nothing more"),
		Example: "  ccnode invite create                          # the second box of this site's pair\n  ccnode invite create --site 0002 --name Lyon  # the first box of a new site",
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := ask[api.Invite](cmd, s, http.MethodPost, "/invites", n)
			if err != nil {
				return err
			}
			if qr {
				q, err := qrcode.New(i.Token, qrcode.Medium)
				if err != nil {
					return fmt.Errorf("draw the QR code: %w", err)
				}
				fmt.Fprintln(os.Stderr, q.ToSmallString(false))
			}
			return s.show(i, func(t *table) {
				t.row("token", i.Token)
				t.row("for", "one box of site "+i.Site+", until "+i.Expires.Local().Format("2006-01-02 15:04"))
				t.row("next", "on the new box: ccnode up --join TOKEN")
				t.row("id", i.ID)
			})
		},
	}
	f := create.Flags()
	f.StringVar(&n.Site, "site", "", "code of the site, existing or new (default this one)")
	f.StringVar(&n.SiteName, "name", "", "name of a new site")
	f.IntVar(&n.ExtensionDigits, "extension-digits", 0, "digits of a new site's extensions (default 3)")
	f.StringVar(&n.Expires, "expires", "24h", "how long the token is good for")
	f.BoolVar(&qr, "qr", false, "draw it as a QR code too")
	list := &cobra.Command{
		Use: "list", Short: "List invites of this site", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			is, err := ask[[]api.Invite](cmd, s, http.MethodGet, "/invites", nil)
			if err != nil {
				return err
			}
			return s.show(is, func(t *table) {
				t.row("ID", "SITE", "STATE", "EXPIRES", "REDEEMED BY")
				for _, i := range is {
					t.row(i.ID, i.Site, i.State, i.Expires.Local().Format("2006-01-02 15:04"), dash(i.Redeemed))
				}
			})
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Make a token worthless", Args: args(1, 1, "the invite's id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return s.plain(cmd, http.MethodDelete, "/invites/"+a[0], nil, "revoked "+a[0])
		},
	}
	c.AddCommand(create, list, revoke)
	return c
}

// plain sends a request that answers nothing and prints what was done.
func (s *settings) plain(cmd *cobra.Command, method, path string, in any, done string) error {
	cl, err := s.client()
	if err != nil {
		return err
	}
	if err := cl.Do(cmd.Context(), method, path, in, nil, ""); err != nil {
		return err
	}
	return s.show(map[string]string{"done": done}, func(t *table) { t.row(done) })
}

func pendingCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "pending", Short: "Boxes on this LAN that want to join"}
	list := &cobra.Command{
		Use: "list", Short: "List them, each with its six-digit code", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ps, err := ask[[]api.Pending](cmd, s, http.MethodGet, "/pending", nil)
			if err != nil {
				return err
			}
			return s.show(ps, func(t *table) {
				t.row("CODE", "NAME", "ADDRESS", "NODE", "SINCE")
				for _, p := range ps {
					t.row(p.Code, p.Name, p.Addr, p.Node, p.Since.Local().Format("15:04:05"))
				}
			})
		},
	}
	var a api.Approval
	approve := &cobra.Command{
		Use: "approve CODE", Short: "Admit the box that shows this code", Args: args(1, 1, "the six digits the new box shows"),
		RunE: func(cmd *cobra.Command, w []string) error {
			a.Code = strings.ReplaceAll(w[0], " ", "")
			n, err := ask[api.NodeStatus](cmd, s, http.MethodPost, "/pending/approve", a)
			if err != nil {
				return err
			}
			return s.show(n, func(t *table) { t.row("admitted", n.Name, n.ID, "site "+n.SiteCode) })
		},
	}
	approve.Flags().StringVar(&a.Site, "site", "", "code of the site it will serve (default this one)")
	approve.Flags().StringVar(&a.SiteName, "name", "", "name of a new site")
	approve.Flags().IntVar(&a.ExtensionDigits, "extension-digits", 0, "digits of a new site's extensions (default 3)")
	c.AddCommand(list, approve)
	return c
}

func meshCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "mesh", Short: "The links to other nodes"}
	peers := &cobra.Command{
		Use: "peers", Short: "Nodes this one talks with, and what it owes them", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := ask[api.Status](cmd, s, http.MethodGet, "/status", nil)
			if err != nil {
				return err
			}
			return s.show(st.Peers, func(t *table) {
				t.row("NAME", "SITE", "STATE", "HEARD", "OWED", "IN", "OUT", "ADDRESSES", "ERROR")
				for _, p := range st.Peers {
					t.row(p.Name, p.SiteCode, p.State, ago(p.Heard), p.Owed, size(p.In), size(p.Out), strings.Join(p.Addrs, " "), p.Error)
				}
			})
		},
	}
	var over string
	bytes := &cobra.Command{
		Use: "bytes", Short: "Count what the mesh sends and receives", Args: args(0, 0, "nothing more"),
		Example: "  ccnode mesh bytes --over 1m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := ask[api.Bytes](cmd, s, http.MethodGet, "/mesh/bytes?over="+over, nil)
			if err != nil {
				return err
			}
			return s.show(b, func(t *table) {
				t.row("PEER", "IN", "OUT")
				for _, p := range b.Peers {
					t.row(p.Name, p.In, p.Out)
				}
				t.row("all", b.In, b.Out)
			})
		},
	}
	bytes.Flags().StringVar(&over, "over", "", "watch for this long (default: since the start)")
	check := &cobra.Command{
		Use: "check", Short: "Try to reach every peer now", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.plain(cmd, http.MethodPost, "/check", nil, "asked every peer; see ccnode mesh peers")
		},
	}
	c.AddCommand(peers, bytes, check)
	return c
}

func nodeCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "Boxes of the fleet"}
	var dry bool
	var keep []string
	revoke := &cobra.Command{
		Use: "revoke NODE", Short: "Shut a box out of the fleet, for good, and list what it could open", Args: args(1, 1, "the node's name or id"),
		Long: `Shuts a box out of the fleet, for good. Boxes that it admitted are shut out
with it, unless --keep says that they are yours.`,
		RunE: func(cmd *cobra.Command, a []string) error {
			method, path, done := http.MethodPost, "/revoke", "revoked"
			if dry {
				method, path, done = http.MethodGet, "/secrets", "not revoked"
			} else if len(keep) > 0 {
				path += "?" + url.Values{"keep": {strings.Join(keep, ",")}}.Encode()
			}
			x, err := ask[api.NodeSecrets](cmd, s, method, "/nodes/"+pathEscape(a[0])+path, nil)
			if err != nil {
				return err
			}
			return s.show(x, func(t *table) { secretRows(t, x, done) })
		},
	}
	revoke.Flags().BoolVar(&dry, "dry-run", false, "only list what it can open")
	revoke.Flags().StringSliceVar(&keep, "keep", nil, "boxes that it admitted and that stay: all, none, or names")
	var r api.NodeRights
	raise := &cobra.Command{
		Use: "raise NODE", Short: "Give a box more rights, until it is revoked", Args: args(1, 1, "the node's name or id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if !r.Admit && !r.Relay {
				return usageError{errors.New("say which: --admit, --relay, or both")}
			}
			return s.plain(cmd, http.MethodPost, "/nodes/"+pathEscape(a[0])+"/rights", r, "given")
		},
	}
	raise.Flags().BoolVar(&r.Admit, "admit", false, "it may admit boxes to any site, and revoke any")
	raise.Flags().BoolVar(&r.Relay, "relay", false, "it carries for boxes that cannot be dialled")
	c.AddCommand(append(salvageCommands(s), revoke, raise)...)
	return c
}

func recoverCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "recover", Short: "Make this box one that may admit others, with the recovery sheet", Args: args(0, 0, "nothing more: it asks for the words"),
		Long: `Makes this box one that may admit boxes to any site, and revoke any, when no
such box is left. It reads the 24 words of the recovery sheet from the standard
input, on one line or several. They are kept nowhere.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if x, err := os.Stdin.Stat(); err == nil && x.Mode()&os.ModeCharDevice != 0 {
				fmt.Fprintln(os.Stderr, "The 24 words of the recovery sheet, then Enter:")
			}
			var words []string
			for in := bufio.NewScanner(io.LimitReader(os.Stdin, 4096)); len(words) < 24 && in.Scan(); {
				words = append(words, strings.Fields(in.Text())...)
			}
			if len(words) == 0 {
				return usageError{errors.New("no words came; type them, or give them on the standard input")}
			}
			return s.plain(cmd, http.MethodPost, "/recovery/use", api.RecoverySheet{Words: words}, "this box may admit others now; next: ccnode node revoke NODE --keep all, for a box that is lost")
		},
	}
}

// secretRows is what a person has to know of a box that is lost.
func secretRows(t *table, x api.NodeSecrets, done string) {
	t.row(done, x.Name, x.Node)
	for _, of := range x.Sites {
		if len(of.Keys) == 0 {
			t.row("site "+of.Site, "no key of it was ever given to this box")
			continue
		}
		t.row("site "+of.Site, fmt.Sprintf("keys %d, secrets %d", len(of.Keys), len(of.Secrets)), strings.Join(of.Keys, " "))
		if of.Current {
			t.row("", "the key in use is among them; a box of that site draws another as soon as it hears that this box is shut out")
		}
		for _, y := range of.Secrets {
			t.row("", y.Kind, y.What, dash(y.Number), dash(y.Name), y.ID)
		}
		for _, m := range of.Made {
			t.row("", "made of the key", m)
		}
	}
	for _, w := range x.Unknown {
		t.row("not known here", "site "+w, "ask a box of that site: ccnode node revoke "+x.Node+" --dry-run")
	}
	t.row("unsealed", "recordings and messages on its disk are readable to whoever has it")
}

func secretsCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "secrets", Short: "Passwords, PINs and keys of this site"}
	var held string
	var dry, yes bool
	rotate := &cobra.Command{
		Use: "rotate", Short: "Replace all that a lost box could open of this site", Args: args(0, 0, "nothing more"),
		Long: `Replaces what a box that was shut out of the fleet could open of this site:
passwords of telephones, PINs, the pages' passwords, and what the telephones
trust. Adopted telephones are asked to fetch their new settings; the passwords
of the others are shown, and have to be typed into them: they are dead until
then. Shut the box out first (ccnode node revoke NODE). Then run this at a box
of each site that its list names.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if held == "" {
				return usageError{errors.New("say which box is lost: --held-by ID; \"ccnode node revoke\" showed its id")}
			}
			if dry || !yes {
				x, err := ask[api.NodeSecrets](cmd, s, http.MethodGet, "/nodes/"+pathEscape(held)+"/secrets", nil)
				if err != nil {
					return err
				}
				return s.show(x, func(t *table) {
					secretRows(t, x, "nothing replaced yet")
					if !dry {
						t.row("next", "telephones that nobody adopted are dead until their new password is typed; to go on: --yes")
					}
				})
			}
			x, err := ask[api.RotatedSecrets](cmd, s, http.MethodPost, "/secrets/rotate", api.SecretRotation{HeldBy: held})
			if err != nil {
				return err
			}
			return s.show(x, func(t *table) { rotatedRows(t, x) })
		},
	}
	rotate.Flags().StringVar(&held, "held-by", "", "id of the box that is lost")
	rotate.Flags().BoolVar(&dry, "dry-run", false, "only list what would be replaced")
	rotate.Flags().BoolVar(&yes, "yes", false, "do it")
	c.AddCommand(rotate)
	return c
}

func rotatedRows(t *table, x api.RotatedSecrets) {
	t.row("site "+x.Site, fmt.Sprintf("%d replaced, %d left to you", len(x.Replaced), len(x.Left)))
	for _, y := range x.Replaced {
		to := y.New
		if y.Phone != "" {
			to = "telephone " + y.Phone + " fetches it"
		}
		t.row("new", y.Kind, y.What, dash(y.Number), dash(y.Name), to)
	}
	for _, p := range x.Phones {
		if !p.Asked {
			t.row("not asked", p.Phone, p.MAC, p.Reason)
		}
	}
	if x.Until != nil {
		t.row("until", x.Until.Local().Format("2006-01-02 15:04"), "telephones that are off now find their new settings by themselves until then; later: ccnode phone window open")
	}
	for _, y := range x.Left {
		t.row("left to you", y.Kind, y.What, dash(y.Number), dash(y.Name), y.Why)
	}
	for _, w := range x.Others {
		t.row("left to you", "site "+w, "the same there: ccnode secrets rotate --held-by "+x.Node)
	}
	for _, w := range x.Unknown {
		t.row("not known here", "site "+w, "ask a box of that site: ccnode secrets rotate --held-by "+x.Node+" --dry-run")
	}
}

func recoveryCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "recovery", Short: "The fleet's recovery sheet"}
	c.AddCommand(&cobra.Command{
		Use: "show", Short: "Show the 24 words, while this box still has them", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask[api.Recovery](cmd, s, http.MethodGet, "/recovery", nil)
			if err != nil {
				return err
			}
			return s.show(r, func(t *table) {
				for i := 0; i < len(r.Words); i += 6 {
					t.row(fmt.Sprintf("%2d", i+1), strings.Join(r.Words[i:min(i+6, len(r.Words))], " "))
				}
				t.row("next", "write them down, then: ccnode recovery confirm WORD1 WORD24")
			})
		},
	}, &cobra.Command{
		Use: "confirm FIRST LAST", Short: "Say that the words are written down; this box forgets them", Args: args(2, 2, "the first and the last of the 24 words"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return s.plain(cmd, http.MethodPost, "/recovery/confirm", api.RecoveryCheck{First: a[0], Last: a[1]}, "this box has forgotten the fleet's root key; keep the sheet safe")
		},
	})
	return c
}
