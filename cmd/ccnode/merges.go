package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func mergesCommand(s *settings) *cobra.Command {
	var closed bool
	list := func(cmd *cobra.Command, _ []string) error {
		ms, err := ask[[]api.Merge](cmd, s, http.MethodGet, fmt.Sprintf("/merges?closed=%t", closed), nil)
		if err != nil {
			return err
		}
		return s.show(ms, func(t *table) {
			if len(ms) == 0 {
				t.row("no open merges: nobody changed the same thing on two sides")
				return
			}
			for _, m := range ms {
				mergeRows(t, m)
			}
		})
	}
	c := &cobra.Command{Use: "merges", Short: "What two sides changed without seeing each other", Args: args(0, 0, "nothing more, or: keep MERGE VERSION"), RunE: list,
		Long: "Each merge shows what every side wrote, who did, at which box and when, what it replaced, and which value is in force and why.\n" +
			"Nothing is lost: any side can be kept. A record that was deleted by somebody who had not seen an edit comes back when that edit is kept."}
	c.Flags().BoolVar(&closed, "closed", false, "also those that were settled")
	c.AddCommand(&cobra.Command{Use: "list", Short: "List them", Args: args(0, 0, "nothing more"), RunE: list},
		&cobra.Command{
			Use: "keep MERGE VERSION", Short: "Settle a merge by keeping one side, or both", Args: args(2, 2, "the merge's id and the version to keep, or: both"),
			Long: "VERSION is what \"ccnode merges\" shows behind keep. \"both\" keeps what all sides say together, where that makes sense: lists, and the keys of a menu.",
			RunE: func(cmd *cobra.Command, a []string) error {
				return s.plain(cmd, http.MethodPost, "/merges/"+pathEscape(a[0])+"/keep", api.KeepMerge{Version: a[1]}, "kept "+a[1])
			},
		})
	return c
}

func mergeRows(t *table, m api.Merge) {
	state := ""
	if m.Closed {
		state = "settled"
	}
	t.row("MERGE", m.ID, m.Kind, m.Record, m.Field, state)
	t.row("", "in force", dash(m.InForce), m.Why)
	if m.ClosedBy != nil {
		t.row("", "settled", dash(m.ClosedBy.Value), "by "+dash(m.ClosedBy.By), "at "+dash(m.ClosedBy.Node), "site "+dash(m.ClosedBy.Site), moment(m.ClosedBy.At))
	}
	for _, sd := range m.Sides {
		mark, was, keep := "not in force", "was unknown", ""
		switch {
		case m.Closed:
			mark = "was there"
		case sd.InForce:
			mark = "in force"
		}
		if sd.Was != nil {
			was = "was " + dash(*sd.Was)
		}
		if !m.Closed && m.Do == "" {
			keep = "keep: " + sd.Version
		}
		t.row("", mark, dash(sd.Value), was, "by "+dash(sd.By), "at "+dash(sd.Node), "site "+dash(sd.Site), moment(sd.At), keep)
	}
	if m.Both != "" {
		t.row("", "together", m.Both, "", "", "", "", "", "keep: both")
	}
	if m.Do != "" {
		t.row("", "to settle it", m.Do)
	}
}
