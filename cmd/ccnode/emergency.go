package main

import (
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
)

func emergencyCommand(s *settings) *cobra.Command {
	c := &cobra.Command{Use: "emergency", Short: "Emergency calls"}
	c.AddCommand(&cobra.Command{Use: "test FROM", Short: "How an emergency call would go now; nothing is dialled", Args: args(1, 1, "who would call: a number, extension or name"),
		Long:    "It says which lines are tried, what number the emergency centre sees and calls back, and what should be put right.\nTo really call, over the same lines but to a number made for tests, dial the code it names on a telephone.",
		Example: "  ccnode emergency test 201", RunE: func(cmd *cobra.Command, a []string) error {
			p, err := ask[api.EmergencyPlan](cmd, s, http.MethodGet, "/emergency?from="+url.QueryEscape(a[0]), nil)
			if err != nil {
				return err
			}
			return s.show(p, func(t *table) {
				for _, step := range p.Steps {
					t.row("-", step)
				}
				for _, w := range p.Wrong {
					t.row("WRONG", w)
				}
			})
		}})
	return c
}

// testedWords are for status.
func testedWords(t *site.EmergencyTest) []any {
	if t == nil {
		return []any{"tested", "emergency last tested: never", "see ccnode emergency test"}
	}
	return []any{"tested", "emergency last tested: " + t.At.Local().Format("2006-01-02 15:04"), "by " + t.By, t.Result}
}
