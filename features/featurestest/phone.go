package featurestest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/zaf/g711"

	"carrierclass.net/ccnode/features/media"
)

// A Phone is one end of a leg. It shares no code with what it tests: RTP and
// keys are its own, G.711 another library's. From Take until Close it sends a
// packet every 20 ms, silence if nobody speaks.
type Phone struct {
	conn media.PacketConn
	law  string // PCMU or PCMA
	talk uint8

	mu     sync.Mutex
	heard  []int16       // by timestamp, from the first packet on
	first  uint32        // timestamp of heard[0]
	count  int           // packets heard
	news   chan struct{} // closed and replaced when something was heard
	queue  []item
	idle   chan struct{} // closed and replaced when the queue ran empty
	to     netip.AddrPort
	seq    uint16
	ts     uint32
	muted  bool
	closed bool

	stop chan struct{}
	wg   sync.WaitGroup
}

// item is one packet to send.
type item struct {
	payload []byte
	key     bool
	mark    bool
	back    uint32 // how far before now its timestamp lies
	copies  int
}

const keysPT = 101

// NewPhone binds a telephone at an address with listen, a media.Config.Listen.
// law is "PCMU" or "PCMA".
func NewPhone(listen func(netip.AddrPort) (media.PacketConn, error), at netip.Addr, law string) (*Phone, error) {
	c, err := listen(netip.AddrPortFrom(at, 0))
	if err != nil {
		return nil, err
	}
	// Numbers that wrap soon, to see that nobody minds.
	p := &Phone{conn: c, law: law, news: make(chan struct{}), idle: make(chan struct{}), stop: make(chan struct{}),
		seq: 65500, ts: math.MaxUint32 - 4000}
	if law == "PCMA" {
		p.talk = 8
	}
	p.wg.Go(p.read) // ends when the socket closes
	return p, nil
}

// Offer is the phone's session description.
func (p *Phone) Offer() []byte {
	at := p.conn.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
	return fmt.Appendf(nil, "v=0\r\no=phone 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP %d %d\r\n"+
		"a=rtpmap:%d %s/8000\r\na=rtpmap:%d telephone-event/8000\r\na=fmtp:%d 0-15\r\na=ptime:20\r\na=sendrecv\r\n",
		at.Addr(), at.Addr(), at.Port(), p.talk, keysPT, p.talk, p.law, keysPT, keysPT)
}

// Take reads the answer and begins to send.
func (p *Phone) Take(answer []byte) error {
	var host string
	var port uint64
	for line := range strings.Lines(string(answer)) {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "c=IN IP4 "); ok {
			host = h
		}
		if m, ok := strings.CutPrefix(line, "m=audio "); ok {
			port, _ = strconv.ParseUint(strings.Fields(m)[0], 10, 16)
		}
	}
	a, err := netip.ParseAddr(host)
	if err != nil || port == 0 {
		return fmt.Errorf("no audio in the answer:\n%s", answer)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	began := p.to.IsValid()
	p.to = netip.AddrPortFrom(a, uint16(port)) // #nosec G115: parsed as 16 bits
	if !began && !p.closed {
		p.wg.Go(p.send) // ends at Close
	}
	return nil
}

// Close ends the phone's sound.
func (p *Phone) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
	}
	p.mu.Unlock()
	_ = p.conn.Close()
	p.wg.Wait()
}

// Mute makes the phone send nothing at all while nobody speaks, as phones
// with silence suppression do.
func (p *Phone) Mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = on
}

// Speak says a tone for d; it returns when it was sent.
func (p *Phone) Speak(ctx context.Context, hz float64, d time.Duration) error {
	n := int(d / (20 * time.Millisecond))
	items := make([]item, n)
	for i := range items {
		pcm := make([]int16, 160)
		for j := range pcm {
			pcm[j] = int16(12000 * math.Sin(2*math.Pi*hz*float64(i*160+j)/8000))
		}
		items[i] = item{payload: p.encode(pcm)}
	}
	return p.put(ctx, items)
}

// Press presses keys, 100 ms each, as RFC 4733 has it; it returns when they
// were sent.
func (p *Phone) Press(ctx context.Context, keys string) error {
	var items []item
	for _, k := range keys {
		event := strings.IndexRune("0123456789*#ABCD", k)
		if event < 0 {
			return fmt.Errorf("%q is no key", k)
		}
		for i := range 5 {
			b := []byte{byte(event), 10, 0, 0} // #nosec G115: below 16
			binary.BigEndian.PutUint16(b[2:], uint16((i+1)*160))
			it := item{payload: b, key: true, mark: i == 0, back: uint32(i * 160)} // #nosec G115: below 800
			if i == 4 {
				b[1] |= 0x80
				it.copies = 2
			}
			items = append(items, it)
		}
		for range 3 {
			items = append(items, item{payload: p.encode(make([]int16, 160))})
		}
	}
	return p.put(ctx, items)
}

func (p *Phone) put(ctx context.Context, items []item) error {
	if len(items) == 0 {
		return nil
	}
	p.mu.Lock()
	p.queue = append(p.queue, items...)
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.stop:
		return fmt.Errorf("the phone was hung up")
	}
}

func (p *Phone) encode(pcm []int16) []byte {
	b := make([]byte, len(pcm))
	for i, s := range pcm {
		if p.law == "PCMA" {
			b[i] = g711.EncodeAlawFrame(s)
		} else {
			b[i] = g711.EncodeUlawFrame(s)
		}
	}
	return b
}

// send is the phone's clock: one packet every 20 ms.
func (p *Phone) send() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		for _, b := range p.packets() {
			_, _ = p.conn.WriteToUDPAddrPort(b, p.peer())
		}
	}
}

func (p *Phone) peer() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to
}

func (p *Phone) packets() (out [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var it item
	switch {
	case len(p.queue) > 0:
		it, p.queue = p.queue[0], p.queue[1:]
		if len(p.queue) == 0 {
			close(p.idle)
			p.idle = make(chan struct{})
		}
	case !p.muted:
		it.payload = p.encode(make([]int16, 160))
	}
	for range 1 + it.copies {
		if it.payload == nil {
			break
		}
		b := make([]byte, 12, 12+len(it.payload))
		b[0], b[1] = 0x80, p.talk
		if it.key {
			b[1] = keysPT
		}
		if it.mark {
			b[1] |= 0x80
		}
		binary.BigEndian.PutUint16(b[2:], p.seq)
		binary.BigEndian.PutUint32(b[4:], p.ts-it.back)
		binary.BigEndian.PutUint32(b[8:], 0xCAFE)
		out = append(out, append(b, it.payload...))
		p.seq++
	}
	p.ts += 160
	return out
}

func (p *Phone) read() {
	b := make([]byte, 2048)
	for {
		n, _, err := p.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n > 12 && b[0] == 0x80 && b[1]&0x7F == p.talk {
			p.listen(binary.BigEndian.Uint32(b[4:]), b[12:n])
		}
	}
}

// listen lays a packet on the phone's time line; gaps stay silent.
func (p *Phone) listen(ts uint32, payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == 0 {
		p.first = ts
	}
	p.count++
	at := int(int32(ts - p.first)) // #nosec G115: serial number arithmetic
	if at < 0 || at > len(p.heard)+8000*600 {
		return
	}
	if need := at + len(payload); need > len(p.heard) {
		p.heard = append(p.heard, make([]int16, need-len(p.heard))...)
	}
	for i, c := range payload {
		if p.law == "PCMA" {
			p.heard[at+i] = g711.DecodeAlawFrame(c)
		} else {
			p.heard[at+i] = g711.DecodeUlawFrame(c)
		}
	}
	close(p.news)
	p.news = make(chan struct{})
}

// Heard is a copy of what the phone heard so far.
func (p *Phone) Heard() []int16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heard)
}

// Await waits until ok is true of what was heard since the mark, and moves the
// mark behind what ok said it used.
func (p *Phone) Await(ctx context.Context, mark *int, ok func(pcm []int16) (used int, found bool)) error {
	for {
		p.mu.Lock()
		pcm, news := p.heard, p.news
		p.mu.Unlock()
		if *mark < len(pcm) {
			if used, found := ok(pcm[*mark:]); found {
				*mark += used
				return nil
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.stop:
			return fmt.Errorf("the phone was hung up")
		}
	}
}

// Tone finds hz for a fifth of a second.
func Tone(hz float64) func(pcm []int16) (int, bool) {
	from := 0
	return func(pcm []int16) (int, bool) {
		for ; from+1600 <= len(pcm); from += 160 {
			if media.Hears(pcm[from:from+1600], hz) {
				return from + 1600, true
			}
		}
		return 0, false
	}
}

// Spoken finds a clip, sample for sample, by the quarter second in its middle.
func Spoken(c media.Clip) func(pcm []int16) (int, bool) {
	all, err := media.ReadAll(c.Source(), time.Minute)
	n := min(2000, len(all))
	key := all[(len(all)-n)/2:][:n]
	from := 0
	return func(pcm []int16) (int, bool) {
		if err != nil || n == 0 {
			return 0, false
		}
		for ; from+n <= len(pcm); from++ {
			if near(pcm[from], key[0]) && near(pcm[from+n/2], key[n/2]) && slices.EqualFunc(pcm[from:from+n], key, near) {
				return from + n, true
			}
		}
		return 0, false
	}
}

// near allows for A-law in between.
func near(a, b int16) bool {
	d, size := int(a)-int(b), max(int(a), -int(a))
	return max(d, -d) <= 24+size/12
}
