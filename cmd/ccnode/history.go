package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func historyCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "history [[KIND] RECORD]", Short: "Who changed what, when and at which box, as far as this box remembers",
		Args: args(0, 2, "a number, a name or an id, with its kind before it if need be: user, device, group, menu, trunk, number, hours, phone, shop, site, node, fleet or message"),
		Long: "RECORD is a number, an extension, a name or an id. KIND is user, device, group, menu, trunk, number, hours, phone, shop, site, node, fleet or message;\n" +
			"it is needed where several have the name. shop, site and fleet need no RECORD. Without anything it shows the newest 100 changes. The first column names the change, for \"ccnode undo\".",
		Example: "  ccnode history\n  ccnode history 201\n  ccnode history group sales\n  ccnode history shop",
		RunE: func(cmd *cobra.Command, a []string) error {
			q := url.Values{}
			switch {
			case len(a) == 0:
			case len(a) == 2:
				q = url.Values{"kind": {a[0]}, "record": {a[1]}}
			case a[0] == "shop" || a[0] == "site" || a[0] == "fleet":
				q = url.Values{"kind": {a[0]}}
			default:
				q = url.Values{"record": {a[0]}}
			}
			x, err := ask[api.History](cmd, s, http.MethodGet, "/history?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			return s.show(x, func(t *table) {
				t.row("CHANGE", "WHEN", "WHO", "BOX", "FIELD", "OLD", "NEW", "STATE")
				for _, c := range x.Changes {
					for _, f := range c.Fields {
						of := f.Field
						switch {
						case x.Kind == "all":
							of = f.Record + ": " + of
						case x.Kind == "user" && strings.HasPrefix(f.Record, "device"):
							of = "device " + of
						}
						t.row(c.ID, moment(c.At), dash(c.By), dash(c.Node), of, oldWords(f), dash(f.New), stateWords(f.State))
					}
				}
				t.row(x.Record + ": this box remembers what it saw being overwritten since " + moment(x.Since) + "; ? is what it never had, or has forgotten")
			})
		},
	}
}

func oldWords(f api.HistoryField) string {
	if f.Old == nil {
		return "?"
	}
	return dash(*f.Old)
}

func stateWords(state string) string {
	switch state {
	case "in-force":
		return "in force"
	case "beside":
		return "beside it: see ccnode merges"
	}
	return state
}

func undoCommand(s *settings) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "undo CHANGE", Short: "Write again what was there before a change", Args: args(1, 1, "the change, as \"ccnode history\" shows it"),
		Long: "The undo is a change like any other: it has seen what is here now, it counts everywhere, and can be undone.\n" +
			"What somebody changed since is left alone unless you say --yes. An undo of a delete restores. Secrets are not brought back.",
		Example: "  ccnode history 201\n  ccnode undo 3f2a9c0177e6b1d4",
		RunE: func(cmd *cobra.Command, a []string) error {
			x, err := ask[api.Undone](cmd, s, http.MethodPost, "/changes/"+pathEscape(a[0])+"/undo", api.Undo{Yes: yes})
			if err != nil {
				return err
			}
			return s.show(x, func(t *table) {
				for _, f := range x.Fields {
					t.row("undone", f.Record, f.Field, "was "+oldWords(f), "is "+dash(f.New))
				}
				for _, l := range x.Left {
					t.row("left", l)
				}
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "also over what somebody changed since")
	return c
}
