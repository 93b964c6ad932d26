package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/node"
)

// salvageBatch keeps a request well below its limit: a change has 4 kB at most.
const salvageBatch = 100

func salvageCommands(s *settings) []*cobra.Command {
	var dry bool
	salvage := &cobra.Command{
		Use: "salvage DISK", Short: "Bring in what only the disk of a dead box holds", Args: args(1, 1, "the data folder of the dead box, where its disk is mounted"),
		Long: "Reads the data folder of a box that is dead, was revoked or was cloned, without writing to it, and gives this node what the fleet does\n" +
			"not have: changes, which wait until a person accepts them (ccnode node accept), and recordings. What is damaged is counted and left out.\n" +
			"Run it at a box of the same site, as a user who may read the disk.",
		Example: "  mount -o ro /dev/sdb2 /mnt\n  ccnode node salvage /mnt/var/lib/ccnode --dry-run\n  ccnode node salvage /mnt/var/lib/ccnode\n  ccnode node accept --all",
		RunE: func(cmd *cobra.Command, a []string) error {
			out, err := runSalvage(cmd, s, a[0], dry)
			if err != nil {
				return err
			}
			return s.show(out, func(t *table) { salvageRows(t, out) })
		},
	}
	salvage.Flags().BoolVar(&dry, "dry-run", false, "only list what is new")
	var all bool
	accept := &cobra.Command{
		Use: "accept [CHANGE...]", Short: "Let changes of a salvaged disk in", Args: cobra.ArbitraryArgs,
		Long: "Lets changes in that \"ccnode node salvage\" has read from a dead box's disk. They are named by the first 8 or more characters of their ids;\n" +
			"--all takes all but those that admit or shut out boxes.",
		RunE: func(cmd *cobra.Command, a []string) error {
			if all == (len(a) > 0) {
				return usageError{errors.New("say which changes: their ids, or --all; \"ccnode status\" lists what is held")}
			}
			out, err := ask[[]api.SalvageVerdict](cmd, s, http.MethodPost, "/salvage/accept", api.SalvageAccept{IDs: a, All: all})
			if err != nil {
				return err
			}
			return s.show(out, func(t *table) {
				for _, v := range out {
					t.row(v.Outcome, short(v.ID), strings.Join(v.Writes, "; "), v.Reason)
				}
				if len(out) == 0 {
					t.row("nothing waits")
				}
			})
		},
	}
	accept.Flags().BoolVar(&all, "all", false, "all that wait, but for those that admit or shut out boxes")
	return []*cobra.Command{salvage, accept}
}

func short(id string) string { return id[:min(len(id), 12)] }

func runSalvage(cmd *cobra.Command, s *settings, dir string, dry bool) (out api.Salvaged, err error) {
	tmp, err := os.MkdirTemp("", "ccnode-salvage")
	if err != nil {
		return out, fmt.Errorf("make a folder for copies: %w; set TMPDIR to one with room", err)
	}
	defer os.RemoveAll(tmp)
	d, err := node.ReadDisk(dir, tmp)
	if err != nil {
		return out, err
	}
	out = api.Salvaged{Disk: d.Dir, DryRun: dry, Read: len(d.Changes), New: []api.SalvagedChange{}, Held: []api.SalvagedChange{}, Recordings: []string{},
		Damaged: api.SalvageDamage{Places: d.Damaged, Recordings: d.Torn, Unfinished: d.Unfinished}}
	for cs := d.Changes; len(cs) > 0; {
		n := min(len(cs), salvageBatch)
		b := api.SalvageBatch{Fleet: d.Fleet, Disk: d.Dir, DryRun: dry}
		for _, c := range cs[:n] {
			b.Changes = append(b.Changes, c.Raw())
		}
		got, err := ask[[]api.SalvagedChange](cmd, s, http.MethodPost, "/salvage/changes", b)
		if err != nil {
			return out, err
		}
		for _, x := range got {
			switch x.State {
			case "new":
				out.New = append(out.New, x)
			case "held":
				out.Held = append(out.Held, x)
			case "known":
				out.Known++
			case "covered":
				out.Covered++
			case "forged":
				out.Forged++
			case "damaged":
				out.Damaged.Places++
			}
		}
		cs = cs[n:]
	}
	return out, salvageRecordings(cmd, s, d, &out)
}

// salvageRecordings stores those that this node does not have.
func salvageRecordings(cmd *cobra.Command, s *settings, d *node.SalvagedDisk, out *api.Salvaged) error {
	cl, err := s.client()
	if err != nil {
		return err
	}
	for fs := d.Recordings; len(fs) > 0; {
		n := min(len(fs), 500)
		var refs api.SalvageRefs
		for _, f := range fs[:n] {
			refs.Refs = append(refs.Refs, f.Ref.String())
		}
		missing, err := ask[api.SalvageRefs](cmd, s, http.MethodPost, "/salvage/missing", refs)
		if err != nil {
			return err
		}
		want := map[string]bool{}
		for _, r := range missing.Refs {
			want[r] = true
		}
		for _, f := range fs[:n] {
			if !want[f.Ref.String()] {
				continue
			}
			if f.Size > api.MaxRecording {
				out.Damaged.TooLong++
				continue
			}
			b, err := f.Read()
			if err != nil {
				out.Damaged.Recordings++
				continue
			}
			if !out.DryRun {
				if err := cl.Put(cmd.Context(), "/salvage/recordings/"+f.Ref.String(), bytes.NewReader(b)); err != nil {
					return err
				}
			}
			out.Recordings = append(out.Recordings, f.Ref.String())
		}
		fs = fs[n:]
	}
	return nil
}

func salvageRows(t *table, x api.Salvaged) {
	t.row("disk", x.Disk, fmt.Sprintf("%d changes read: %d known, %d written over since, %d with a wrong signature", x.Read, x.Known, x.Covered, x.Forged))
	for _, of := range []struct {
		word string
		list []api.SalvagedChange
	}{{"new", x.New}, {"waits", x.Held}} {
		for _, c := range of.list {
			t.row(of.word, short(c.ID), c.Scope, dash(c.Node), dash(c.By), c.At.Local().Format(time.DateTime), strings.Join(c.Writes, "; "))
		}
	}
	for _, r := range x.Recordings {
		t.row("recording", r)
	}
	if d := x.Damaged; d != (api.SalvageDamage{}) {
		t.row("damaged", fmt.Sprintf("%d places of the store, %d recordings; %d recordings unfinished, %d too long", d.Places, d.Recordings, d.Unfinished, d.TooLong))
	}
	switch {
	case x.DryRun:
		t.row("next", "nothing was taken; the same without --dry-run takes it")
	case len(x.New)+len(x.Held) > 0:
		t.row("next", "the changes wait for you: ccnode node accept ID..., or --all")
	}
}
