package media

// Fits says whether speech of each end can be passed to the other as it is: of
// the codecs that each leg agreed on, the other takes at least the preferred
// one. A port that has agreed on nothing yet fits.
func (p *Port) Fits(q *Port) bool {
	p.e.topology.Lock()
	defer p.e.topology.Unlock()
	return passes(p, q) && passes(q, p)
}

// passes says whether to takes what from prefers to send. The caller holds topology.
func passes(from, to *Port) bool {
	if from.sdp.remote == nil || to.sdp.remote == nil {
		return true
	}
	numbers := translate(from, to)
	for _, c := range from.sdp.remote.streams[from.sdp.heard].codecs {
		if c.aux() || from.sdp.local != nil && !shared(from.sdp.local, c) {
			continue
		}
		return numbers[c.pt] != drop
	}
	return false
}
