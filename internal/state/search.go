package state

import (
	"bytes"
	"cmp"
	pq "container/heap"
	"slices"
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// A Search asks for a part of the directory.
type Search struct {
	Text    string  // in a name, a number or an alias; "" is everybody
	Home    site.ID // of this site only; zero: of all
	Deleted bool    // own deleted users, too
	After   string  // Key of the last one that was seen: those that follow it
	Limit   int     // at most so many; 0: all
}

// Key orders users: by number, then by id.
func (u *User) Key() string { return u.Number + " " + u.ID.String() }

type found struct {
	number string
	id     site.RecordID
}

func (f found) compare(o found) int {
	return cmp.Or(strings.Compare(f.number, o.number), bytes.Compare(f.id[:], o.id[:]))
}

// most is a heap with the last one of an order on top.
type most []found

func (m most) Len() int           { return len(m) }
func (m most) Less(i, j int) bool { return m[i].compare(m[j]) > 0 }
func (m most) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *most) Push(x any)        { *m = append(*m, x.(found)) }
func (m *most) Pop() any {
	last := len(*m) - 1
	x := (*m)[last]
	*m = (*m)[:last]
	return x
}

// Search lists users of the directory by number: own users in full, those of
// other sites as the directory has them. more says that others follow. It goes
// through the whole directory once, and keeps no more of it than it returns.
func (s *State) Search(q Search) (out []User, more bool) {
	var after found
	if number, id, ok := strings.Cut(q.After, " "); ok {
		after.number = number
		after.id, _ = site.ParseRecordID(id)
	}
	text := strings.ToLower(strings.TrimSpace(q.Text))
	has := func(what ...string) bool {
		return text == "" || slices.ContainsFunc(what, func(x string) bool { return contains(x, text) })
	}
	var all most
	take := func(number string, id site.RecordID) {
		f := found{number, id}
		switch {
		case q.After != "" && f.compare(after) <= 0:
		case q.Limit > 0 && len(all) > q.Limit:
			if f.compare(all[0]) < 0 {
				all[0] = f
				pq.Fix(&all, 0)
			}
		default:
			pq.Push(&all, f)
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if q.Home.IsZero() || q.Home == s.cfg.Site {
		for _, u := range s.ix.users {
			if (!u.Deleted || q.Deleted) && has(u.Name, u.Number, u.E164) {
				take(u.Number, u.ID)
			}
		}
	}
	s.ix.each(func(e *Entry) {
		if s.ix.users[e.User] == nil && (q.Home.IsZero() || e.Home == q.Home) && has(e.Name, e.Number, e.E164) {
			take(e.Number, e.User)
		}
	})
	slices.SortFunc(all, found.compare)
	if q.Limit > 0 && len(all) > q.Limit {
		all, more = all[:q.Limit], true
	}
	out = make([]User, 0, len(all))
	for _, f := range all {
		if u := s.ix.users[f.id]; u != nil {
			out = append(out, s.dress(*u))
		} else if e := s.ix.listing.users[f.id]; e != nil {
			out = append(out, s.dress(e.user()))
		}
	}
	return out, more
}

// contains is strings.Contains without regard to case; text is in lower case.
func contains(in, text string) bool {
	if len(in) < len(text) {
		return false
	}
	for i := range len(in) { // most names are plain: nothing is made of them
		if in[i] >= 0x80 {
			return strings.Contains(strings.ToLower(in), text)
		}
	}
	for i := 0; i+len(text) <= len(in); i++ {
		k := 0
		for k < len(text) && lower(in[i+k]) == text[k] {
			k++
		}
		if k == len(text) {
			return true
		}
	}
	return false
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}
