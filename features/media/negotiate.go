package media

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// dialogue is the offer and answer of one leg (RFC 3264). Guarded by Port.mu.
type dialogue struct {
	id, version uint64
	remote      *description
	heard       int     // which of its streams we carry
	audio       int     // which of our lines carries it
	local       []codec // what our last description said
	lines       []line  // its m= lines; they never become fewer
	asked       bool    // the other end's offer waits for our answer
	offered     bool    // our offer waits for the other end's answer
	last        []byte  // our last description
	numbers     []codec // payload type numbers this leg has used (RFC 3264 §8.3.2)
	dir         direction
}

// SetRemote takes the other end's SDP, offer or answer (RFC 3264). Malformed
// text gives site.BadRequest, nothing to carry site.NotAcceptable; then
// nothing has changed.
func (p *Port) SetRemote(sdp []byte) error {
	d, err := parse(sdp)
	if err != nil {
		return err
	}
	p.e.topology.Lock()
	defer p.e.topology.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := &p.sdp
	prefer := -1
	if n.lines != nil {
		prefer = n.audio
	}
	i, err := d.audio(prefer) // where it was, if it still can be carried
	if err != nil {
		return err
	}
	before := n.remote
	switch {
	case n.offered:
		n.offered = false
	case before != nil && before.origin == d.origin && !n.asked && n.last != nil:
		// The same description again: a 200 after a 183, or a refresh.
	default:
		n.asked = true
	}
	n.remote, n.heard = d, i
	s := &d.streams[i]
	n.learn(s.codecs)
	p.aim(before == nil, s)
	p.reflow()
	return nil
}

// Local makes our SDP for this leg: an offer, or the answer to what SetRemote
// took. template is the other leg's SDP, whose codecs and direction are kept;
// nil means our own capabilities (G.711, telephone-event). The version of the
// origin line rises when the text changes. site.NotAcceptable is returned when
// no stream can be accepted.
func (p *Port) Local(template []byte) ([]byte, error) {
	want := own()
	if template != nil {
		d, err := parse(template)
		if err != nil {
			return nil, fmt.Errorf("the other leg's %w", err)
		}
		i, err := d.audio(-1)
		if err != nil {
			return nil, fmt.Errorf("the other leg: %w", err)
		}
		want = d.streams[i]
		want.dir = want.wants()
	}
	p.e.topology.Lock()
	defer p.e.topology.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := &p.sdp
	live := stream{dir: want.dir, ptime: want.ptime, maxptime: want.maxptime}
	proto, lines, audio := "RTP/AVP", slices.Clone(n.lines), n.audio
	if n.asked {
		r := &n.remote.streams[n.heard]
		live.codecs = common(want.codecs, r.codecs, template == nil)
		live.dir &= r.wants().reverse()
		if r.held() {
			live.dir = want.dir & recvonly
		}
		proto, lines, audio = r.proto, mirror(n.remote.streams), n.heard
	} else {
		live.codecs = n.number(want.codecs)
		if lines == nil {
			lines, audio = []line{{}}, 0
		} else {
			proto = lines[audio].proto
		}
	}
	if !speech(live.codecs) {
		return nil, fmt.Errorf("no codec in common: %w", site.NotAcceptable)
	}
	n.offered = !n.asked
	n.lines, n.audio = lines, audio
	n.asked = false
	n.lines[n.audio] = line{media: "audio", proto: proto, live: &live, formats: numbersOf(live.codecs)}
	n.local, n.dir = live.codecs, live.dir
	n.learn(live.codecs)
	next := write(n.id, n.version, p.params.Local, portOf(p.rtp), portOf(p.rtcp), n.lines)
	if n.last != nil && !bytes.Equal(next, n.last) {
		n.version++
		next = write(n.id, n.version, p.params.Local, portOf(p.rtp), portOf(p.rtcp), n.lines)
	}
	n.last = next
	p.reflow()
	return bytes.Clone(next), nil
}

// Rollback forgets that our last offer waits for an answer: it was refused
// (RFC 3264 §4), so the next description of the other end is an offer.
func (p *Port) Rollback() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sdp.offered = false
}

// mirror keeps the order of an offer's m= lines (RFC 3264 §6); a line is
// rejected as long as it is not given a live stream.
func mirror(streams []stream) []line {
	out := make([]line, len(streams))
	for i, s := range streams {
		out[i] = line{media: s.media, proto: s.proto, formats: s.formats}
	}
	return out
}

// common keeps the codecs that both lists have, with the offer's numbers: in
// the order of want, or in the order of the offer when want is only our own
// list of capabilities.
func common(want, offer []codec, offerOrder bool) []codec {
	var out []codec
	pick := func(c codec) {
		for _, have := range out {
			if have.pt == c.pt {
				return
			}
		}
		out = append(out, c)
	}
	find := func(list []codec, key string) (codec, bool) {
		for _, c := range list {
			if c.key() == key {
				return c, true
			}
		}
		return codec{}, false
	}
	if offerOrder {
		for _, o := range offer {
			if w, ok := find(want, o.key()); ok {
				o.fmtp = w.fmtp
				pick(o)
			}
		}
		return out
	}
	for _, w := range want {
		if o, ok := find(offer, w.key()); ok {
			o.fmtp = w.fmtp
			pick(o)
		}
	}
	return out
}

// number gives each codec the payload type it already has on this leg, else
// the other leg's number if it is free here, else a free dynamic one.
func (n *dialogue) number(want []codec) []codec {
	var used [128]bool
	for _, c := range n.numbers {
		used[c.pt] = true
	}
	out := make([]codec, 0, len(want))
	for _, c := range want {
		known := false
		for _, k := range n.numbers {
			if k.key() == c.key() && !has(out, k.pt) {
				c.pt, known = k.pt, true
				break
			}
		}
		if !known && used[c.pt] {
			free := -1
			for pt := 96; pt < 128; pt++ {
				if !used[pt] {
					free = pt
					break
				}
			}
			if free < 0 {
				continue
			}
			c.pt = uint8(free) // #nosec G115: below 128
		}
		used[c.pt] = true
		out = append(out, c)
	}
	return out
}

func has(list []codec, pt uint8) bool {
	for _, c := range list {
		if c.pt == pt {
			return true
		}
	}
	return false
}

// learn remembers which number stands for which codec on this leg.
func (n *dialogue) learn(codecs []codec) {
	for _, c := range codecs {
		if !has(n.numbers, c.pt) && len(n.numbers) < 128 {
			n.numbers = append(n.numbers, c)
		}
	}
}

func speech(codecs []codec) bool {
	for _, c := range codecs {
		if !c.aux() {
			return true
		}
	}
	return false
}

func numbersOf(codecs []codec) string {
	s := make([]string, len(codecs))
	for i, c := range codecs {
		s[i] = fmt.Sprint(c.pt)
	}
	return strings.Join(s, " ")
}

// flow is what the packet path needs to know of the negotiation; it is never
// changed, only replaced.
type flow struct {
	accept [128]bool // payload types the other end may send
	want   netip.AddrPort
	send   bool   // the other end wants to hear us
	rate   uint32 // RTP clock of the speech
	law    law    // how a session speaks, noLaw if it cannot
	lawPT  uint8
	keysPT int // telephone-event as the other end wants it, -1 if not
	hears  [128]law
	isKeys [128]bool
}

// reflow computes the flow again. The caller holds topology and mu.
func (p *Port) reflow() {
	n := &p.sdp
	if n.remote == nil {
		return
	}
	f := &flow{keysPT: -1, rate: 8000}
	r := &n.remote.streams[n.heard]
	f.send = r.wants()&recvonly != 0
	if r.addr.IsValid() && !r.addr.IsUnspecified() && !r.addr.IsMulticast() {
		f.want = netip.AddrPortFrom(r.addr, uint16(r.port)) // #nosec G115: parsed as 16 bits
	}
	for _, c := range r.codecs {
		f.accept[c.pt] = true
		f.note(c)
	}
	for _, c := range n.local { // our numbers win: they are what we told it to send
		f.accept[c.pt] = true
		f.note(c)
	}
	first := true
	for _, c := range r.codecs {
		// Only what is in both descriptions is sent.
		if n.local != nil && !shared(n.local, c) {
			continue
		}
		if first && !c.aux() {
			f.rate, first = c.rate, false
		}
		if l := lawOf(c); l != noLaw && f.law == noLaw {
			f.law, f.lawPT = l, c.pt
		}
		if isKeys(c) && f.keysPT < 0 {
			f.keysPT = int(c.pt)
		}
	}
	p.flow.Store(f)
	if p.peer != nil {
		p.link()
	}
}

func (f *flow) note(c codec) {
	f.hears[c.pt] = lawOf(c)
	f.isKeys[c.pt] = isKeys(c)
}

func shared(list []codec, c codec) bool {
	for _, l := range list {
		if l.key() == c.key() {
			return true
		}
	}
	return false
}

func isKeys(c codec) bool { return strings.EqualFold(c.name, "telephone-event") && c.rate == 8000 }

func lawOf(c codec) law {
	switch c.key() {
	case "pcmu/8000/":
		return muLaw
	case "pcma/8000/":
		return aLaw
	}
	return noLaw
}

// translate says which number of to stands for each number from may send;
// drop for what to did not accept.
func translate(from, to *Port) (out [128]uint8) {
	for i := range out {
		out[i] = drop
	}
	if to.sdp.remote == nil || from.sdp.remote == nil {
		return out
	}
	there := to.sdp.remote.streams[to.sdp.heard].codecs
	put := func(list []codec) {
		for _, c := range list {
			for _, t := range there {
				if t.key() == c.key() {
					out[c.pt] = t.pt
					break
				}
			}
		}
	}
	put(from.sdp.remote.streams[from.sdp.heard].codecs)
	put(from.sdp.local)
	return out
}

const drop = 0xFF
