package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

func eventsCommand(s *settings) *cobra.Command {
	var (
		only  []string
		after uint64
		count int
	)
	kinds := []string{"merge", "record", "call"}
	c := &cobra.Command{
		Use: "events", Short: "Follow what happens at this box, until interrupted", Args: args(0, 0, "nothing more"),
		Long: "Each line is one event: a record that was changed, a merge that opened or was settled, a call that was answered or ended.\n" +
			"With -o json each line is one JSON object; its id, given to --after, goes on where one was.",
		Example: "  ccnode events\n  ccnode events --only merge -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, k := range only {
				if !slices.Contains(kinds, k) {
					return usageError{fmt.Errorf("--only %q: use %s", k, strings.Join(kinds, ", "))}
				}
			}
			cl, err := s.client()
			if err != nil {
				return err
			}
			enough := errors.New("enough")
			seen, end := 0, ""
			for {
				err := cl.Follow(cmd.Context(), after, func(e api.Event) error {
					after, end = e.ID, ""
					if e.Kind == api.EventEnd {
						end = e.Why
						return nil
					}
					kind, _, _ := strings.Cut(e.Kind, "-")
					if len(only) > 0 && slices.Contains(kinds, kind) && !slices.Contains(only, kind) {
						return nil
					}
					if err := printEvent(s, e); err != nil {
						return err
					}
					if e.Kind != api.EventHello {
						if seen++; seen == count {
							return enough
						}
					}
					return nil
				})
				switch {
				case errors.Is(err, enough) || cmd.Context().Err() != nil:
					return nil
				case err != nil:
					return err
				case strings.HasPrefix(end, "it was read too slowly"):
					fmt.Fprintln(os.Stderr, "ccnode: "+end+"; going on with what is remembered")
				default:
					return fmt.Errorf("the events ended: %s; run it again with --after %d", dash(end), after)
				}
			}
		},
	}
	f := c.Flags()
	f.StringSliceVar(&only, "only", nil, "merge, record or call; several with commas (default: all)")
	f.Uint64Var(&after, "after", 0, "go on after the event of this id (default: from now on)")
	f.IntVar(&count, "count", 0, "end after so many (default: never)")
	return c
}

func printEvent(s *settings, e api.Event) error {
	if s.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(e)
	}
	what := []string{moment(e.At), e.Kind}
	switch {
	case e.Record != nil:
		what = append(what, e.Record.Record+":", strings.Join(e.Record.Fields, ", "))
	case e.Merge != nil:
		what = append(what, e.Merge.Record+":", e.Merge.Field, "in force "+dash(e.Merge.InForce))
		if c := e.Merge.ClosedBy; c != nil {
			what = append(what, "by "+dash(c.By))
		}
		if e.Merges != nil {
			what = append(what, fmt.Sprintf("(%d open)", *e.Merges))
		}
	case e.Call != nil:
		what = append(what, dash(e.Call.From)+" to "+dash(e.Call.To)+":", e.Call.State, e.Call.Cause)
	case e.Kind == api.EventHello && e.Merges != nil:
		what = append(what, fmt.Sprintf("following from here; %d merges are open", *e.Merges))
	default:
		what = append(what, e.Why)
	}
	_, err := fmt.Println(clean(strings.Join(slices.DeleteFunc(what, func(w string) bool { return w == "" }), "  ")))
	return err
}
