package b2bua

import (
	"errors"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/route"
)

var errSilent = errors.New("no 100 Trying in time")

// askSite sends the call to a node of another site, and to the next one when
// there was no 100 Trying for a while (calls.md §3 step 6). The first node that
// answers anything keeps the call; the others are cancelled. Without a 100
// within the budget, counted from from, the site counts as unreachable.
func (c *Call) askSite(id int, f *fork, b route.Branch, to route.Entry, v vector, from time.Time) {
	type answer struct {
		event
		node int
	}
	var (
		nodes  = b.Site.Nodes
		in     = make(chan answer)
		halts  = make([]*halt, len(nodes))
		failed = make([]bool, len(nodes))
		over   = newHalt() // this function has returned or given up
		next   int
		open   int
		live   = -1
		last   = event{from: id, final: true, lost: true, cause: site.Unreachable}
	)
	defer over.stop("")
	stopAll := func(why string) {
		for i, h := range halts {
			if h != nil && i != live {
				h.stop(why)
			}
		}
	}
	start := func() {
		i := next
		next++
		open++
		halts[i] = newHalt()
		node := nodes[i]
		c.srv.spawn(func() {
			o := outgoing{uri: aorURI(to.AOR), dest: edge.Dest{Peer: node}, peer: node, vector: v, to: to}
			c.try(id, o, halts[i], func(e event) bool {
				select {
				case in <- answer{e, i}:
					return true
				case <-over.ch:
					return false
				}
			})
		})
	}
	note := func(i int, err error) {
		if c.srv.cfg.Reach != nil {
			c.srv.cfg.Reach.Note(nodes[i], err)
		}
	}
	start()
	budget := time.NewTimer(from.Add(b.Budget - margin).Sub(c.srv.cfg.Now()))
	defer budget.Stop()
	after := time.NewTimer(from.Add(b.After).Sub(c.srv.cfg.Now()))
	defer after.Stop()
	for {
		select {
		case a := <-in:
			if a.lost {
				failed[a.node] = true
				note(a.node, a.err)
			} else if live < 0 && a.res != nil {
				live = a.node
				note(live, nil)
				stopAll("")
			}
			switch {
			case a.answer && a.node != live:
				a.leg.bye(site.Elsewhere)
				a.leg.close()
			case a.answer:
				if !f.tell(a.event) {
					a.leg.bye(site.Elsewhere)
					a.leg.close()
				}
				return
			case !a.final:
				if a.node == live {
					f.tell(a.event)
				}
			case a.node == live && !a.lost:
				if a.cause == site.Failure && next < len(nodes) { // that node is ill, its pair may not be
					open--
					live = -1
					last = a.event
					budget.Reset(b.Budget)
					start()
					continue
				}
				f.tell(a.event)
				return
			default:
				open--
				if a.node == live {
					live = -1
					budget.Reset(b.Budget)
				}
				if live >= 0 {
					continue
				}
				if next < len(nodes) {
					start()
				} else if open == 0 {
					f.tell(last)
					return
				}
			}
		case <-after.C:
			if live < 0 && next < len(nodes) {
				start()
			}
		case <-budget.C:
			if live >= 0 {
				continue
			}
			for i := range next {
				if !failed[i] {
					note(i, errSilent)
				}
			}
			stopAll("")
			f.tell(last)
			return
		case <-f.halt.ch:
			for _, h := range halts {
				if h != nil {
					h.stop(f.halt.reason)
				}
			}
			return
		}
	}
}
