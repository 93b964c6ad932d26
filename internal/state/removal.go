package state

import (
	"carrierclass.net/ccnode/crdt"
)

// Removal says whether all that a change does is to take something away that is
// here: a record for good, a user's place by a disable or a delete, a secret by
// a security reset. Such a change counts at once, whatever else its author
// wrote. What it takes away has to be here, so that nobody writes without end
// under that name.
func Removal(v View, c *crdt.Change) bool {
	set := v.Set(c.Scope)
	for i := range c.Writes {
		w := &c.Writes[i]
		if len(set.Fields(w.Table, w.Record)) == 0 {
			return false
		}
		if w.Flags&(crdt.Final|crdt.Reset) != 0 {
			continue
		}
		switch _, f := fieldOf(c.Cell(i)); {
		case f.policy == True && isTrue(w.Value):
		case c.Scope == crdt.Fleet && w.Table == TableDirectory && takesAway(w.Value):
		default:
			return false
		}
	}
	return true
}

// takesAway says whether an entry of the directory is that of a disabled user,
// or the empty one of a deleted.
func takesAway(entry []byte) bool {
	var e wireEntry
	return len(entry) == 0 || unmarshal(entry, &e) && e.Disabled
}
