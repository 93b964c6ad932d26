package state

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/trust"
)

// Described is a change in words, for a person who has to decide about it.
type Described struct {
	By     string   // who wrote it
	Writes []string // what it says, secrets only as "changed"
}

// Describe says what a change of any scope would write. It need not be part of
// the state.
func (s *State) Describe(c *crdt.Change) (d Described) {
	s.cfg.Engine.View(func(v View) {
		d.By = s.personOf(v, c.By)
		for i := range c.Writes {
			w := &c.Writes[i]
			if c.Scope == crdt.Trust {
				d.Writes = append(d.Writes, trustWords(w))
				continue
			}
			if w.Table == TableMessage && w.Field == msgEntry && len(w.Value) > 0 {
				d.Writes = append(d.Writes, s.messageWords(v, c.Scope, w))
				continue
			}
			cell := c.Cell(i)
			name, _ := s.recordWords(v, cell)
			_, f := fieldOf(cell)
			switch {
			case w.Flags&crdt.Final != 0:
				d.Writes = append(d.Writes, name+": removed for good")
			case f.set:
				d.Writes = append(d.Writes, name+": "+f.name+" "+strings.ToValidUTF8(strings.TrimPrefix(cell.Field, f.name), "?")+" "+words(f, cell, w.Value))
			default:
				d.Writes = append(d.Writes, name+": "+f.name+" = "+words(f, cell, w.Value))
			}
		}
	})
	return d
}

func (s *State) messageWords(v View, scope crdt.Scope, w *crdt.Write) string {
	var m wireMessage
	if !unmarshal(w.Value, &m) {
		return "voicemail message that cannot be read"
	}
	name, _ := s.recordWords(v, crdt.Cell{Scope: scope, Table: TableUser, Record: string(m.Mailbox)})
	return fmt.Sprintf("voicemail for %s from %s, %s, %s", name, cmp.Or(m.From, "somebody"),
		time.UnixMilli(m.At).UTC().Format("2006-01-02 15:04 MST"), (time.Duration(m.Duration) * time.Millisecond).Round(time.Second))
}

// trustWords says what a write of the trust scope would do.
func trustWords(w *crdt.Write) string {
	what := map[uint16]string{trust.TableFounding: "founding of a fleet", trust.TableGrant: "admits a box or gives it rights",
		trust.TableRevocation: "shuts out a box", trust.TableProof: "proof against a box"}[w.Table]
	return cmp.Or(what, "trust of a kind unknown here") + " " + hex.EncodeToString([]byte(w.Record))
}
