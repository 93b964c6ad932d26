package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
)

// faultsError ends "ccnode doctor" with exit code 1.
type faultsError int

func (n faultsError) Error() string {
	if n == 1 {
		return "1 fault found"
	}
	return fmt.Sprintf("%d faults found", int(n))
}

func doctorCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "What is wrong with this box and the network round it, and which ports to open",
		Long: "Names in words what keeps calls from working, by which evidence, and what to do. Ends with the firewall statement.\n" +
			"Exit code 0: no fault (there may be warnings); 1: faults were found; 4: no node answers.",
		Args: args(0, 0, "nothing more"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := ask[api.Doctor](cmd, s, http.MethodGet, "/doctor", nil)
			if err != nil {
				return err
			}
			if s.output == "json" {
				err = s.show(d, nil)
			} else {
				err = s.show(d, func(t *table) { doctorRows(t, d) })
			}
			if n := d.Faults(); err == nil && n > 0 {
				return faultsError(n)
			}
			return err
		},
	}
}

func doctorRows(t *table, d api.Doctor) {
	for _, level := range []string{api.LevelFault, api.LevelWarning, api.LevelUnknown, api.LevelOK} {
		for _, f := range d.Findings {
			if f.Level != level {
				continue
			}
			word := level
			if level == api.LevelFault {
				word = "FAULT"
			}
			t.line(word + ": " + f.What)
			if f.Why != "" {
				t.line("    why: " + f.Why)
			}
			if f.Do != "" {
				t.line("    do:  " + f.Do)
			}
		}
	}
	t.line("")
	t.line("FIREWALL: what this box listens on, and where it calls")
	t.row("WAY", "PROTOCOL", "PORT", "ADDRESS", "WHO", "FOR", "ON THE ROUTER")
	for _, p := range d.Ports {
		t.row(p.Way, p.Protocol, p.Port, dash(strings.Join(p.Addrs, ", ")), p.Who, p.For, p.Router)
	}
	t.line("")
	t.line(d.Router)
}

// line writes words that are no cells.
func (t *table) line(words string) {
	_ = t.w.Flush() // cells above keep their own columns
	fmt.Fprintln(t.w, clean(words))
	_ = t.w.Flush()
}
