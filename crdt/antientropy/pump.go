package antientropy

import (
	"slices"

	"carrierclass.net/ccnode/crdt"
)

// pump sends what is owed and fits the window, and names whom to dial.
func (m *Machine) pump() {
	for _, id := range m.toLookAt() {
		p := m.peers[id]
		if p.linked {
			if p.heard {
				m.pumpPeer(p)
			}
			continue
		}
		if !p.Pause && !slices.Contains(m.ready.Dial, id) && m.Owed(id, 1) > 0 {
			m.ready.Dial = append(m.ready.Dial, id)
		}
	}
}

// toLookAt lists, in their order, the neighbours that may be owed something: of
// 30,000 that is a dozen, as long as nothing waits for a holder of its scope.
func (m *Machine) toLookAt() []Peer {
	if len(m.view.Outbox()) > 0 {
		return m.order
	}
	if m.near == nil {
		m.near = make([]Peer, 0, 16)
		for _, id := range m.order {
			if p := m.peers[id]; p.linked || len(p.Shared) > 0 && !p.Pause {
				m.near = append(m.near, id)
			}
		}
	}
	return m.near
}

// pumpPeer goes through the scopes in their order: what trust says comes before
// what needs it. Of a long backlog of trust only its first part does; then come the
// first parts of all, what is left of trust, and what is left of the fleet's.
func (m *Machine) pumpPeer(p *peer) {
	late := p.scopes[crdt.Trust]
	if late != nil && late.late && late.sent >= m.view.Head(crdt.Trust) {
		late.late = false
	}
	if late != nil && !late.late {
		late = nil
	}
	for _, s := range p.Shared {
		x := p.scopes[s]
		if x == nil {
			continue
		}
		_, own := s.Site()
		inTurn := late == nil || own
		m.hurry(p, s, x, !inTurn)
		if inTurn {
			for p.room() && m.next(p, s, x) {
			}
		} else {
			for p.room() && len(x.give) > 0 && m.given(p, s, x) {
			}
		}
		if s == crdt.Trust && (late == nil && x.inflight > 0 || len(x.give) > 0 || x.answered < x.given) {
			return // nothing that needs a grant goes before the grants
		}
		m.compare(p, s, x)
	}
	if late != nil {
		for p.room() && m.next(p, crdt.Trust, late) {
		}
	}
	m.pushOut(p)
}

// next sends one batch, and says whether there may be more.
func (m *Machine) next(p *peer, s crdt.Scope, x *exchange) bool {
	if len(x.give) > 0 {
		return m.given(p, s, x)
	}
	as := m.view.After(s, x.sent, p.batch())
	if len(as) == 0 {
		return false
	}
	msg := batchMsg{Scope: []byte(s)}
	size, all := 0, true
	for _, a := range as {
		if x.went(a.N) {
			msg.N = a.N
			continue
		}
		if a.From != p.Peer || a.N <= x.echo {
			if a.N > m.told[s] {
				break // it waits a moment for others
			}
			b, err := m.view.Bytes(a.ID)
			if err != nil {
				all = false
				break
			}
			if b != nil {
				msg.Changes = append(msg.Changes, b)
				size += len(b)
			}
		}
		msg.N = a.N
	}
	if msg.N == 0 {
		return false
	}
	x.sent = msg.N
	if len(msg.Changes) == 0 { // only echoes of its own: nobody need be told
		if x.inflight == 0 {
			x.acked = msg.N
			m.ready.Acked = append(m.ready.Acked, Ack{p.Peer, s, msg.N})
		} else {
			x.bounds = append(x.bounds, bound{n: msg.N})
		}
		return all
	}
	m.sendBatch(p, s, x, msg, bound{n: msg.N, size: size})
	return all
}

// sendBatch sends changes, and counts them as being on their way.
func (m *Machine) sendBatch(p *peer, s crdt.Scope, x *exchange, msg batchMsg, b bound) {
	x.batches++
	x.inflight += b.size
	x.bounds = append(x.bounds, b)
	m.send(p, kindBatch, msg)
	o := &m.ready.Messages[len(m.ready.Messages)-1]
	o.Batch, o.Scope, o.Size = x.batches, s, b.size
}

// compare ends an exchange that began with different fingerprints. Whoever has
// drained says what it has, and which batches that answers for; a done that
// answers for all of them and still differs means that bookkeeping was wrong,
// and the contents are reconciled, once a link. What still differs then is held
// on one side; it is reported, and not repeated at every link.
func (m *Machine) compare(p *peer, s crdt.Scope, x *exchange) {
	if !x.differs || x.inflight > 0 || len(x.give) > 0 || x.received != x.stored || len(m.view.After(s, x.sent, 1)) > 0 {
		return
	}
	fp := m.view.Fingerprint(s)
	now := done{Scope: []byte(s), Fingerprint: fp[:], Sent: x.batches, Stored: x.stored}
	if x.skipped {
		now.Head = x.sent
	}
	if !x.told.same(now) {
		x.told = now
		m.send(p, kindDone, now)
	}
	d := x.done
	if d == nil || d.Sent != x.stored || d.Stored != x.batches {
		return // it spoke before it had everything, and will speak again
	}
	x.done, x.differs = nil, false
	switch {
	case string(d.Fingerprint) == string(fp[:]):
		delete(p.futile, s)
		m.ready.Equal = append(m.ready.Equal, Scoped{p.Peer, s})
		if x.skipped {
			x.skipped = false
			m.ready.Acked = append(m.ready.Acked, Ack{p.Peer, s, x.acked})
		}
		if d.Head != 0 {
			m.ready.Incoming = append(m.ready.Incoming, Incoming{Peer: p.Peer, Scope: s, Cursor: Cursor{p.epoch, d.Head}})
		}
	case x.repaired:
		x.skipped = false
		f := p.futile[s]
		if f == nil {
			f = &futile{}
			if p.futile == nil {
				p.futile = map[crdt.Scope]*futile{}
			}
			p.futile[s] = f
		}
		f.ours, f.theirs, f.link = string(fp[:]), string(d.Fingerprint), p.link+1
		m.ready.Differ = append(m.ready.Differ, Scoped{p.Peer, s})
	case p.hopeful(s, string(fp[:]), string(d.Fingerprint)):
		x.differs = true
		m.reconcile(p, s, x, string(fp[:]), string(d.Fingerprint))
	default:
		x.skipped = false
		m.ready.Differ = append(m.ready.Differ, Scoped{p.Peer, s})
	}
}

// hopeful says whether asking for everything may bring something.
func (p *peer) hopeful(s crdt.Scope, ours, theirs string) bool {
	f := p.futile[s]
	return f == nil || (f.ours != ours || f.theirs != theirs) && p.link >= f.link
}

// pushOut hands changes of scopes we do not hold to a peer that does.
func (m *Machine) pushOut(p *peer) {
	if len(p.Holds) == 0 {
		return
	}
	for _, o := range m.view.Outbox() {
		if len(p.pushed) >= maxPushed {
			return
		}
		if !slices.Contains(p.Holds, o.Scope) || m.underway(o.ID) {
			continue
		}
		b, err := m.view.Bytes(o.ID)
		if b == nil || err != nil {
			continue
		}
		p.push++
		p.pushed[p.push] = o.ID
		m.send(p, kindPush, pushMsg{Seq: p.push, Changes: [][]byte{b}})
	}
}

func (m *Machine) underway(id crdt.ID) bool {
	for _, p := range m.peers {
		for _, x := range p.pushed {
			if x == id {
				return true
			}
		}
	}
	return false
}
