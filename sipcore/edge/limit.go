package edge

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Limits bound what others can make us spend. Zero fields take the default.
type Limits struct {
	MaxMessage   int           // octets of one message; 16384
	PerSource    int           // messages a second from one address; 500
	SourceBurst  int           // and at once; 2000
	Total        int           // messages a second from all unknown addresses; 5000
	TotalBurst   int           // and at once; 10000
	Emergencies  int           // emergency messages a second that pass all of these; 100
	Conns        int           // inbound connections; 2000
	ConnsPerIP   int           // from one address; 20
	FirstByte    time.Duration // from accept to the first octet; 10 s
	WholeMessage time.Duration // from its first octet to its last; 10 s
	Idle         time.Duration // between messages, nobody known there; 2 min
	KeptIdle     time.Duration // between messages, after Flow.Keep; 30 min
	Write        time.Duration // for one write to a connection; 5 s
	Connect      time.Duration // for a connection of ours; 4 s
	Queue        int           // octets waiting for one slow reader; 262144

	// Known says that an address has somebody registered or authenticated:
	// it has its own limit and does not share Total. It must not block.
	Known func(netip.Addr) bool
	// Emergency looks at the beginning of a message before it is parsed.
	Emergency func(raw []byte) bool
}

// DefaultLimits fit a shop: 2 cores, 512 MB, some hundred phones.
var DefaultLimits = Limits{
	MaxMessage: 16384, PerSource: 500, SourceBurst: 2000, Total: 5000, TotalBurst: 10000, Emergencies: 100,
	Conns: 2000, ConnsPerIP: 20, FirstByte: 10 * time.Second, WholeMessage: 10 * time.Second,
	Idle: 2 * time.Minute, KeptIdle: 30 * time.Minute, Write: 5 * time.Second, Connect: 4 * time.Second, Queue: 256 << 10,
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits
	orInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	orDur := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	orInt(&l.MaxMessage, d.MaxMessage)
	orInt(&l.PerSource, d.PerSource)
	orInt(&l.SourceBurst, d.SourceBurst)
	orInt(&l.Total, d.Total)
	orInt(&l.TotalBurst, d.TotalBurst)
	orInt(&l.Emergencies, d.Emergencies)
	orInt(&l.Conns, d.Conns)
	orInt(&l.ConnsPerIP, d.ConnsPerIP)
	orInt(&l.Queue, d.Queue)
	orDur(&l.FirstByte, d.FirstByte)
	orDur(&l.WholeMessage, d.WholeMessage)
	orDur(&l.Idle, d.Idle)
	orDur(&l.KeptIdle, d.KeptIdle)
	orDur(&l.Write, d.Write)
	orDur(&l.Connect, d.Connect)
	if l.Known == nil {
		l.Known = func(netip.Addr) bool { return false }
	}
	if l.Emergency == nil {
		l.Emergency = func([]byte) bool { return false }
	}
	return l
}

// EmergencyNumbers makes an Emergency hook that knows a request to one of the
// numbers by its Request-Line, and RFC 5031's urn:service:sos.
func EmergencyNumbers(numbers ...string) func(raw []byte) bool {
	return func(raw []byte) bool {
		line, _, _ := bytes.Cut(raw[:min(len(raw), 256)], []byte("\r\n"))
		method, uri, ok := bytes.Cut(line, []byte(" "))
		if !ok || bytes.Equal(method, []byte("REGISTER")) {
			return false
		}
		if len(uri) >= 15 && bytes.EqualFold(uri[:15], []byte("urn:service:sos")) {
			return true
		}
		_, user, _ := bytes.Cut(uri, []byte(":"))
		if i := bytes.IndexAny(user, "@; "); i >= 0 {
			user = user[:i]
		}
		for _, n := range numbers {
			if string(user) == n {
				return true
			}
		}
		return false
	}
}

// A gate decides, before anything is parsed, which message is looked at. Its
// memory is fixed, however many addresses are forged: a table of buckets, each
// address having four places; the one that needs its place least gives way.
type gate struct {
	limits Limits
	seed   maphash.Seed

	mu     sync.Mutex
	table  [gateSets][4]bucket
	total  bucket
	urgent bucket
}

const gateSets = 4096 // 16384 addresses, 640 kB

type bucket struct {
	who  netip.Addr
	fill float32 // messages that may pass at once
	at   int64   // when fill was right, ns
}

func newGate(l Limits) *gate {
	g := &gate{limits: l, seed: maphash.MakeSeed()}
	g.total.fill = float32(l.TotalBurst)
	g.urgent.fill = float32(l.Emergencies)
	return g
}

// take removes one message from b, which refills at rate a second up to burst.
func (b *bucket) take(now int64, rate, burst int) bool {
	b.refill(now, rate, burst)
	if b.fill < 1 {
		return false
	}
	b.fill--
	return true
}

func (b *bucket) refill(now int64, rate, burst int) {
	if d := now - b.at; d > 0 {
		b.fill = min(float32(burst), b.fill+float32(float64(d)*float64(rate)/1e9))
	}
	b.at = now
}

// pass says whether a message from src is to be looked at.
func (g *gate) pass(src netip.Addr, raw []byte, now time.Time) bool {
	l := &g.limits
	known := l.Known(src)
	n := now.UnixNano()
	g.mu.Lock()
	ok := g.source(src, n).take(n, l.PerSource, l.SourceBurst) && (known || g.total.take(n, l.Total, l.TotalBurst))
	g.mu.Unlock()
	if ok || !l.Emergency(raw) {
		return ok
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.urgent.take(n, l.Emergencies, l.Emergencies)
}

func (g *gate) source(src netip.Addr, now int64) *bucket {
	key := src
	if src.Is6() { // one host has a whole /64
		if p, err := src.Prefix(64); err == nil {
			key = p.Addr()
		}
	}
	set := &g.table[maphash.Comparable(g.seed, key)%gateSets]
	victim := &set[0]
	for i := range set {
		b := &set[i]
		if b.who == key {
			return b
		}
		if !victim.who.IsValid() {
			continue
		}
		b.refill(now, g.limits.PerSource, g.limits.SourceBurst)
		if !b.who.IsValid() || b.fill > victim.fill {
			victim = b
		}
	}
	*victim = bucket{who: key, fill: float32(g.limits.SourceBurst), at: now}
	return victim
}
