package crdt

import "encoding/binary"

// idMap finds entries by id. It has one slot for the first eight bytes of an id:
// two that begin alike are rare, unless somebody made them so. Of hundreds of
// thousands of changes it takes a third of what a map of ids does.
type idMap struct {
	at  map[uint64]*entry
	odd map[ID]*entry // those that begin like one in at
}

func begins(id ID) uint64 { return binary.LittleEndian.Uint64(id[:]) }

// get is nil if there is none.
func (m *idMap) get(id ID) *entry {
	if e := m.at[begins(id)]; e != nil && e.id == id {
		return e
	}
	return m.odd[id]
}

func (m *idMap) put(e *entry) {
	k := begins(e.id)
	if o := m.at[k]; o == nil && m.odd[e.id] == nil || o != nil && o.id == e.id {
		if m.at == nil {
			m.at = map[uint64]*entry{}
		}
		m.at[k] = e
		return
	}
	if m.odd == nil {
		m.odd = map[ID]*entry{}
	}
	m.odd[e.id] = e
}

func (m *idMap) drop(id ID) {
	if k := begins(id); m.at[k] != nil && m.at[k].id == id {
		delete(m.at, k)
		return
	}
	delete(m.odd, id)
}

// each calls fn for all, in no order.
func (m *idMap) each(fn func(*entry)) {
	for _, e := range m.at {
		fn(e)
	}
	for _, e := range m.odd {
		fn(e)
	}
}
