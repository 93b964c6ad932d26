package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
)

// phoneCommands are what is done with phones beside keeping their records.
func phoneCommands(s *settings, c *cobra.Command) *cobra.Command {
	c.AddCommand(windowCommand(s), seenCommand(s), adoptCommand(s), codesCommand(s), resyncCommand(s))
	return c
}

func windowCommand(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use: "window", Short: "The time in which phones may begin to fetch their settings",
		Long: "Outside of the window only phones that fetched their settings before are given any.\n\n" +
			"The site's other box opens and closes it, too, as soon as it can be told. It ends by itself,\n" +
			"and when both boxes are started again.",
	}
	show := func(w api.PhoneWindow) error {
		return s.show(w, func(t *table) {
			switch {
			case !w.Open:
				t.row("window", "closed: phones cannot begin", "ccnode phone window open")
			case len(w.MACs) > 0:
				t.row("window", "open until "+w.Until.Local().Format("15:04:05"), "for "+strings.Join(w.MACs, ", "))
			default:
				t.row("window", "open until "+w.Until.Local().Format("15:04:05"), "for every phone that was adopted")
			}
			if w.Shared {
				t.row("other box", "has it open, too")
			}
			for _, u := range w.URLs {
				t.row("address", u, "for a phone that does not find this box by itself, and for DHCP option 66")
			}
		})
	}
	var d time.Duration
	open := &cobra.Command{
		Use: "open [MAC…]", Short: "Open it, for all adopted phones or for some", Args: args(0, 200, "no or some MAC addresses"),
		Example: "  ccnode phone window open --for 10m\n  ccnode phone window open 00:15:65:aa:bb:cc",
		RunE: func(cmd *cobra.Command, a []string) error {
			w, err := ask[api.PhoneWindow](cmd, s, http.MethodPost, "/phones/window", api.OpenWindow{Duration: d.String(), MACs: a})
			if err != nil {
				return err
			}
			return show(w)
		},
	}
	open.Flags().DurationVar(&d, "for", 15*time.Minute, "how long, at most 1h")
	c.AddCommand(open,
		&cobra.Command{Use: "show", Short: "Whether it is open", Args: args(0, 0, "nothing more"), RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := ask[api.PhoneWindow](cmd, s, http.MethodGet, "/phones/window", nil)
			if err != nil {
				return err
			}
			return show(w)
		}},
		&cobra.Command{Use: "close", Short: "Close it now", Args: args(0, 0, "nothing more"), RunE: func(cmd *cobra.Command, _ []string) error {
			return s.plain(cmd, http.MethodDelete, "/phones/window", nil, "closed")
		}})
	return c
}

func seenCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "seen", Short: "Devices that asked this box for settings since it started", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ds, err := ask[[]api.SeenPhone](cmd, s, http.MethodGet, "/phones/seen", nil)
			if err != nil {
				return err
			}
			return s.show(ds, func(t *table) {
				t.row("MAC", "ADDRESS", "VENDOR", "MODEL", "LAST", "TIMES", "PHONE", "FETCHED")
				for _, d := range ds {
					t.row(d.MAC, d.Addr, dash(d.Vendor), dash(d.Model), ago(&d.Last), d.Times, dash(d.Phone), ago(d.Fetched))
					if d.Owed {
						t.row("", "its settings have changed since: ccnode phone resync "+d.MAC)
					}
					if d.Trouble != "" {
						t.row("", "trouble: "+d.Trouble)
					}
				}
			})
		},
	}
}

func adoptCommand(s *settings) *cobra.Command {
	var p site.Phone
	var keys []string
	c := &cobra.Command{
		Use: "adopt MAC", Short: "Make a device a phone of this site", Args: args(1, 1, "the MAC address on the phone's back"),
		Long: "Vendor and model are taken from what the device said when it asked for settings, if it did.\n" +
			"The phone gets its settings when it starts while the window is open.",
		Example: "  ccnode phone adopt 00:15:65:aa:bb:cc --lines 201 --name \"till 1\"\n  ccnode phone window open",
	}
	f := c.Flags()
	f.StringVar(&p.Name, "name", "", "what people call it (default its extension)")
	f.StringVar(&p.Vendor, "vendor", "", "yealink, snom, snom-m, gigaset, ht8xx or akuvox (default what was seen)")
	f.StringVar(&p.Model, "model", "", "model (default what was seen)")
	f.StringSliceVar(&p.Lines, "lines", nil, "users, or devices' ids, in order")
	f.StringVar(&p.Language, "language", "", "such as de")
	f.StringVar(&p.Place, "place", "", "where it stands, for emergency calls")
	f.StringSliceVar(&keys, "keys", nil, "its keys in order: blf=202, park=1, speed=+33472001200, line=1, night, voicemail")
	c.RunE = func(cmd *cobra.Command, a []string) error {
		if len(p.Lines) == 0 {
			return usageError{errors.New("name the phone's users with --lines, such as --lines 201")}
		}
		for _, k := range keys {
			what, value, _ := strings.Cut(k, "=")
			p.Keys = append(p.Keys, site.Key{Type: what, Value: value, Label: cmp.Or(value, what)})
		}
		seen, err := ask[[]api.SeenPhone](cmd, s, http.MethodGet, "/phones/seen", nil)
		if err != nil {
			return err
		}
		p.MAC = a[0]
		for _, d := range seen {
			if plainMAC(d.MAC) != plainMAC(p.MAC) {
				continue
			}
			if p.Vendor == "" {
				p.Vendor = d.Kind
			}
			if p.Model == "" {
				p.Model = d.Model
			}
		}
		if p.Vendor == "" {
			return usageError{fmt.Errorf("%s has not been seen, or did not say what it is; name its vendor with --vendor", p.MAC)}
		}
		if p.Name == "" {
			p.Name = "phone " + p.Lines[0]
		}
		v, err := ask[site.Phone](cmd, s, http.MethodPost, "/phones", map[string]any{"name": p.Name, "mac": p.MAC, "vendor": p.Vendor, "model": p.Model,
			"lines": p.Lines, "language": p.Language, "place": p.Place, "keys": p.Keys})
		if err != nil {
			return err
		}
		return s.show(v, func(t *table) {
			recordRows(t, v)
			t.row("next", "ccnode phone window open, then start the phone")
		})
	}
	return c
}

// plainMAC is the digits alone.
func plainMAC(s string) string {
	return strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(s))
}

func codesCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "codes NAME", Short: "The password of a phone's own page, and what handsets ask for", Args: args(1, 1, "a name or id"),
		RunE: func(cmd *cobra.Command, a []string) error {
			v, err := ask[api.PhoneCodes](cmd, s, http.MethodGet, "/phones/"+url.PathEscape(a[0])+"/codes", nil)
			if err != nil {
				return err
			}
			return s.show(v, func(t *table) {
				t.row("user", v.AdminUser)
				t.row("password", v.AdminPassword)
				if v.DECT != "" {
					t.row("DECT code", v.DECT)
				}
			})
		},
	}
}

func resyncCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "resync MAC|NAME|all", Short: "Ask registered phones to fetch their settings again", Args: args(1, 1, "a MAC address, a name, or all"),
		Long: "A phone with changed settings has them after its next start, or when it is asked. One in a call\n" +
			"waits until the call is over; some models start again to take a setting over.",
		RunE: func(cmd *cobra.Command, a []string) error {
			v, err := ask[[]api.Resynced](cmd, s, http.MethodPost, "/phones/"+url.PathEscape(a[0])+"/resync", nil)
			if err != nil {
				return err
			}
			return s.show(v, func(t *table) {
				t.row("MAC", "PHONE", "ASKED")
				for _, r := range v {
					said := "yes"
					if !r.Asked {
						said = "no: " + r.Reason
					}
					t.row(r.MAC, r.Phone, said)
				}
			})
		},
	}
}
