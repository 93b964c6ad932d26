package replica

import (
	"encoding/binary"
	"maps"
	"slices"

	"carrierclass.net/ccnode/crdt"
)

// arrivals is the arrival index of one scope in memory: the order in which the
// live changes came. It is as long as the live set.
type arrivals struct {
	head  uint64 // the last number given
	order []arrival
	at    map[uint64]uint32  // where in order, by the beginning of the id
	odd   map[crdt.ID]uint32 // those whose id begins like another's
	dead  int

	authors []crdt.NodeID
	author  map[crdt.NodeID]uint32 // where in authors
	shares  []crdt.Share           // of authors, of what is live

	base *arrivals       // what came before order, shared and never altered; nil: nothing
	gone map[uint64]bool // of the base, pruned here
}

// over returns an index that goes on where base ends, at the cost of what comes
// and goes. base must not be altered afterwards.
func (a *arrivals) over() arrivals {
	return arrivals{head: a.head, authors: slices.Clone(a.authors), author: maps.Clone(a.author), shares: slices.Clone(a.shares), base: a, gone: map[uint64]bool{}}
}

// number is that of a live change.
func (a *arrivals) number(id crdt.ID) (n uint64, ok bool) {
	if i, ok := a.place(id); ok {
		return a.order[i].n, true
	}
	if a.base == nil {
		return 0, false
	}
	n, ok = a.base.number(id)
	return n, ok && !a.gone[n]
}

// begins is the beginning of an id. Two that begin alike are rare, unless
// somebody made them so.
func begins(id crdt.ID) uint64 { return binary.LittleEndian.Uint64(id[:]) }

// place is where a change is in order. A map of beginnings takes a quarter of
// one of ids.
func (a *arrivals) place(id crdt.ID) (i uint32, ok bool) {
	if i, ok = a.at[begins(id)]; ok && a.order[i].id == id {
		return i, true
	}
	i, ok = a.odd[id]
	return i, ok
}

// index enters the places of order from one on.
func (a *arrivals) index(from int) {
	for i := from; i < len(a.order); i++ {
		id := a.order[i].id
		if a.order[i].n == 0 {
			continue
		}
		if a.at == nil {
			a.at = map[uint64]uint32{}
		}
		if j, taken := a.at[begins(id)]; taken && a.order[j].id != id {
			if a.odd == nil {
				a.odd = map[crdt.ID]uint32{}
			}
			a.odd[id] = uint32(i)
			continue
		}
		a.at[begins(id)] = uint32(i)
	}
}

// again enters all places anew.
func (a *arrivals) again() {
	a.at, a.odd = make(map[uint64]uint32, len(a.order)), nil
	a.index(0)
}

// count is how many changes have a number.
func (a *arrivals) count() int {
	n := len(a.order) - a.dead
	if a.base == nil {
		return n
	}
	return n + a.base.count() - len(a.gone)
}

type arrival struct {
	n    uint64 // 0: the change was pruned
	id   crdt.ID
	peer Peer
	size int32
	by   uint32 // where its author is in arrivals.authors
}

// share is what an author has live here.
func (a *arrivals) share(author crdt.NodeID) crdt.Share {
	if i, ok := a.author[author]; ok {
		return a.shares[i]
	}
	return crdt.Share{}
}

func (a *arrivals) add(n uint64, id crdt.ID, peer Peer, author crdt.NodeID, size int) {
	by, ok := a.author[author]
	if !ok {
		if a.author == nil {
			a.author = map[crdt.NodeID]uint32{}
		}
		by = uint32(len(a.authors))
		a.author[author], a.authors, a.shares = by, append(a.authors, author), append(a.shares, crdt.Share{})
	}
	a.shares[by].Add(size)
	a.order = append(a.order, arrival{n, id, peer, int32(size), by})
	a.index(len(a.order) - 1)
	a.head = max(a.head, n)
}

// find returns a position with only pruned entries between it and the first
// entry with a number of at least n.
func (a *arrivals) find(n uint64) int {
	lo, hi := 0, len(a.order)
	for lo < hi {
		mid := (lo + hi) / 2
		k := mid
		for k < hi && a.order[k].n == 0 {
			k++
		}
		switch {
		case k == hi:
			hi = mid
		case a.order[k].n < n:
			lo = k + 1
		default:
			hi = mid
		}
	}
	return lo
}

// remove forgets a change and returns its number, 0 if it has none.
func (a *arrivals) remove(id crdt.ID) uint64 {
	n, ok := a.number(id)
	if !ok {
		return 0
	}
	i, own := a.place(id)
	if !own {
		i := a.base.find(n)
		for a.base.order[i].n != n {
			i++
		}
		x := a.base.order[i]
		a.shares[x.by].Remove(int(x.size)) // authors keep their places
		a.gone[n] = true
		return n
	}
	if j, ok := a.at[begins(id)]; ok && j == i {
		delete(a.at, begins(id))
	} else {
		delete(a.odd, id)
	}
	a.shares[a.order[i].by].Remove(int(a.order[i].size))
	a.order[i] = arrival{}
	a.dead++
	if a.dead > 64 && a.dead > len(a.order)/2 {
		a.order = slices.DeleteFunc(a.order, func(x arrival) bool { return x.n == 0 })
		a.dead = 0
		a.again()
	}
	return n
}

// after calls fn for each live change with a number above n, in order, until it
// returns false.
func (a *arrivals) after(n uint64, fn func(arrival) bool) {
	if a.base != nil && n < a.base.head {
		more := true
		a.base.after(n, func(x arrival) bool {
			more = a.gone[x.n] || fn(x)
			return more
		})
		if !more {
			return
		}
	}
	for _, x := range a.order[a.find(n+1):] {
		if x.n != 0 && !fn(x) {
			return
		}
	}
}

// sortByNumber is for the load, which may add out of order.
func (a *arrivals) sortByNumber() {
	slices.SortFunc(a.order, func(x, y arrival) int {
		switch {
		case x.n < y.n:
			return -1
		case x.n > y.n:
			return 1
		}
		return 0
	})
	a.again()
}
