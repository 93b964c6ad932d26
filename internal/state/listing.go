package state

import (
	"bytes"
	"cmp"
	"slices"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// listing is the fleet's directory in memory. Hundreds of thousands of entries
// are usual, and that two claim one number, or two homes one user, is not: only
// these take more than a slot of a map. What its pointers point at never changes.
type listing struct {
	users   map[site.RecordID]*Entry
	others  map[site.RecordID][]*Entry // beside the one in users
	numbers map[string]*Entry          // number, E.164 → who alone claims it
	clashes map[string][]*Entry        // all who claim it, the older write first
}

func newListing() listing {
	return listing{users: map[site.RecordID]*Entry{}, others: map[site.RecordID][]*Entry{}, numbers: map[string]*Entry{}, clashes: map[string][]*Entry{}}
}

// len counts the users' entries.
func (l *listing) len() int {
	n := len(l.users)
	for _, es := range l.others {
		n += len(es)
	}
	return n
}

// each calls fn for every user's entry, in no order.
func (l *listing) each(fn func(*Entry)) {
	for _, e := range l.users {
		fn(e)
	}
	for _, es := range l.others {
		for _, e := range es {
			fn(e)
		}
	}
}

// put adds a user's entry and its numbers.
func (l *listing) put(e *Entry) {
	if l.users[e.User] == nil {
		l.users[e.User] = e
	} else {
		l.others[e.User] = append(l.others[e.User], e)
	}
	l.claim(e)
}

// drop forgets the entry that a directory's record made, if any.
func (l *listing) drop(rec string) {
	if len(rec) != trust.PrefixSize+len(site.RecordID{}) {
		return
	}
	id := site.RecordID([]byte(rec[trust.PrefixSize:]))
	of := func(e *Entry) bool { return e != nil && string(e.Home[:trust.PrefixSize]) == rec[:trust.PrefixSize] }
	rest := l.others[id]
	if e := l.users[id]; of(e) {
		l.unclaim(e)
		delete(l.users, id)
		if len(rest) > 0 {
			l.users[id], rest = rest[0], rest[1:]
		}
	} else if i := slices.IndexFunc(rest, of); i >= 0 {
		l.unclaim(rest[i])
		rest = slices.Delete(slices.Clone(rest), i, i+1)
	}
	if len(rest) > 0 {
		l.others[id] = rest
	} else {
		delete(l.others, id)
	}
}

// of lists who claims a number, the older write first.
func (l *listing) of(number string) []*Entry {
	if es := l.clashes[number]; es != nil {
		return es
	}
	if e := l.numbers[number]; e != nil {
		return []*Entry{e}
	}
	return nil
}

// claim enters the numbers of an entry: a user's, or a group's or a menu's.
func (l *listing) claim(e *Entry) {
	for _, n := range e.names() {
		es := l.of(n)
		if len(es) == 0 {
			l.numbers[n] = e
			continue
		}
		delete(l.numbers, n)
		es = append(slices.Clone(es), e)
		slices.SortFunc(es, func(a, b *Entry) int {
			return cmp.Or(cmp.Compare(a.Written, b.Written), bytes.Compare(a.User[:], b.User[:]))
		})
		l.clashes[n] = es
	}
}

func (l *listing) unclaim(e *Entry) {
	for _, n := range e.names() {
		if l.numbers[n] == e {
			delete(l.numbers, n)
			continue
		}
		es := slices.DeleteFunc(slices.Clone(l.clashes[n]), func(x *Entry) bool { return x == e })
		switch len(es) {
		case 0:
			delete(l.clashes, n)
		case 1:
			delete(l.clashes, n)
			l.numbers[n] = es[0]
		default:
			l.clashes[n] = es
		}
	}
}
