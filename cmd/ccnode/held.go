package main

import (
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func heldCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "held", Short: "Changes that this box has and that do not count: why, and what to do",
		Long: "A change is held when it cannot be judged, or comes from the future, from a dead box's disk, or from a box that writes too much. It is kept,\n" +
			"and judged again by itself when what it waits for arrives. Nothing else waits because of it."}
	var dropped bool
	list := &cobra.Command{
		Use: "list", Short: "List them, oldest first", Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dropped {
				ds, err := ask[[]api.DroppedChange](cmd, s, http.MethodGet, "/dropped", nil)
				if err != nil {
					return err
				}
				return s.show(ds, func(t *table) {
					t.row("CHANGE", "AUTHOR", "DROPPED", "BY", "WAS HELD BECAUSE", "SAYS")
					for _, d := range ds {
						t.row(short(d.ID), d.Node, d.At.Local().Format("2006-01-02 15:04"), dash(d.By), d.Reason, strings.Join(d.Writes, "; "))
					}
				})
			}
			hs, err := ask[[]api.HeldDetail](cmd, s, http.MethodGet, "/held", nil)
			if err != nil {
				return err
			}
			return s.show(hs, func(t *table) {
				if len(hs) == 0 {
					t.row("nothing waits")
					return
				}
				t.row("CHANGE", "AUTHOR", "FROM", "SINCE", "WAITS FOR", "SAYS")
				for _, h := range hs {
					t.row(short(h.ID), h.Node, dash(h.From), h.Since.Local().Format("2006-01-02 15:04"), h.Why, strings.Join(h.Writes, "; "))
				}
			})
		},
	}
	list.Flags().BoolVar(&dropped, "dropped", false, "those that somebody dropped here")
	which := "the change, as \"ccnode held list\" shows it"
	show := &cobra.Command{
		Use: "show CHANGE", Short: "Show who wrote it, why it waits and what to do", Args: args(1, 1, which),
		RunE: func(cmd *cobra.Command, a []string) error {
			h, err := ask[api.HeldDetail](cmd, s, http.MethodGet, "/held/"+pathEscape(a[0]), nil)
			if err != nil {
				return err
			}
			return s.show(h, func(t *table) { heldRows(t, h) })
		},
	}
	retry := &cobra.Command{
		Use: "retry CHANGE", Short: "Judge it again, now", Args: args(1, 1, which),
		RunE: func(cmd *cobra.Command, a []string) error {
			v, err := ask[api.HeldVerdict](cmd, s, http.MethodPost, "/held/"+pathEscape(a[0])+"/retry", nil)
			if err != nil {
				return err
			}
			return s.show(v, func(t *table) { t.row(v.Outcome, short(v.ID), strings.Join(v.Writes, "; "), v.Reason) })
		},
	}
	var yes bool
	drop := &cobra.Command{
		Use: "drop CHANGE", Short: "Forget it here; who did so is kept", Args: args(1, 1, which),
		Long: "Forgets a held change at this box, and does not hold it again if it is sent again. Who did so, and when, is kept: ccnode held list --dropped.\n" +
			"Should it turn out to be good after all, because its author was admitted, this box takes it like every other.",
		RunE: func(cmd *cobra.Command, a []string) error {
			d, err := ask[api.DroppedChange](cmd, s, http.MethodPost, "/held/"+pathEscape(a[0])+"/drop", api.HeldDrop{Yes: yes})
			if err != nil {
				return err
			}
			return s.show(d, func(t *table) { t.row("dropped", short(d.ID), "of "+d.Node, strings.Join(d.Writes, "; ")) })
		},
	}
	drop.Flags().BoolVar(&yes, "yes", false, "do it")
	c.AddCommand(list, show, retry, drop)
	return c
}

func heldRows(t *table, h api.HeldDetail) {
	t.row("change", h.ID)
	for _, w := range h.Writes {
		t.row("says", w)
	}
	t.row("author", h.Node)
	if h.By != "" {
		t.row("for", h.By)
	}
	t.row("written", h.At.Local().Format("2006-01-02 15:04:05"), "as its author says")
	t.row("of", h.Scope)
	from := "by hand"
	if h.From != "" {
		from = "from " + h.From
	}
	t.row("came", h.Since.Local().Format("2006-01-02 15:04:05"), from)
	t.row("waits for", h.Why, h.Reason)
	t.row("do", h.Do)
	if h.Alone {
		t.row("only here", "no other member is known to have it")
	}
}
