package world

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
	"carrierclass.net/ccnode/internal/node"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/memnet"
	"carrierclass.net/ccnode/sipcore/edge"
)

const (
	sipPort    = 5060
	startsIn   = 60 * time.Second
	adminsName = "admin"
)

// A box is one node: its disk and folder outlive its processes.
type box struct {
	w      *World
	name   string
	site   *place
	ip     netip.Addr
	data   string
	medium *disktest.Medium
	id     mesh.PeerID
	wires  []*memnet.Node // one for each time it was on
	life   int

	ahead atomic.Int64 // its time of day, in ns; nobody keeps it right then

	api    api.Backend // nil: off
	token  string      // of who is logged in there
	cancel context.CancelFunc
	done   chan error // what Run returned
	err    error
	told   []string
}

func (w *World) newBox(s *place, letter byte) *box {
	name := s.name
	if letter != 0 {
		name += "-" + string(letter)
	}
	last := byte(1)
	if letter == 'b' {
		last = 2
	}
	b := &box{w: w, name: name, site: s, ip: netip.AddrFrom4([4]byte{10, s.n, 0, last}), data: w.path(name), medium: disktest.NewMedium(uint64(len(w.boxes) + 1))}
	w.boxes = append(w.boxes, b)
	w.mu.Lock()
	w.hosts[b.ip] = name
	w.mu.Unlock()
	return b
}

// start switches a box on and returns when it serves telephones, or has failed.
func (b *box) start(join string) error {
	if err := b.wait(); b.life > 0 && err != nil && !errors.Is(err, context.Canceled) {
		b.w.logs.line(b.name, "before: "+err.Error())
	}
	cfg := config.Config{Data: b.data, Fleet: "shops", Domain: "shops.example", SiteCode: b.site.code, SiteName: "Shop " + b.site.name, Join: join, Name: b.name,
		Listen: []netip.Addr{b.ip}, SIPPort: sipPort, MediaPorts: [2]int{31000, 31199}, APIListen: "off", NoMulticast: true, ReserveBytes: 1 << 20}
	if err := cfg.Defaults(); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	b.life++
	b.told, b.token = nil, ""
	w := b.w
	w.mu.Lock()
	delete(w.dead, b.name)
	w.mu.Unlock()
	ready := make(chan api.Backend, 1)
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.done, b.err = cancel, make(chan error, 1), nil
	var told sync.Mutex
	opt := node.Options{Config: cfg, Version: "world", Quota: w.quota, Log: slog.New(w.logs.handler(b.name)), Now: time.Now, Rand: w.rand(fmt.Sprint(b.name, b.life)),
		Tell: func(lines ...string) { told.Lock(); b.told = append(b.told, lines...); told.Unlock() },
		World: &node.World{
			Mesh: func(id mesh.PeerID) (node.Wire, error) {
				w.mu.Lock()
				w.peers[id] = b.name
				w.mu.Unlock()
				x := w.wan.Join(id)
				b.id, b.wires = id, append(b.wires, x)
				return x, nil
			},
			Store: func() (disk.Store, error) { return b.medium.Open() },
			SIP: func(e *edge.Edge) error {
				at := netip.AddrPortFrom(b.ip, sipPort)
				s, err := w.air.Listen(at)
				if err != nil {
					return err
				}
				e.AddPacket(s)
				e.AddListener(w.air.TCP(at.String()), site.TCP)
				return nil
			},
			Media:  func(at netip.AddrPort) (media.PacketConn, error) { return w.air.Listen(at) },
			Synced: func() bool { return b.ahead.Load() == 0 }, Wall: func() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }, Machine: b.name,
			Ready: func(x api.Backend) { ready <- x },
		}}
	done := b.done
	go func() { done <- node.Run(ctx, opt) }() // ends with stop; wait waits
	t := time.NewTimer(startsIn)
	defer t.Stop()
	select {
	case b.api = <-ready:
		return nil
	case err := <-done:
		done <- err
		return err
	case <-t.C:
		b.stop()
		told.Lock()
		defer told.Unlock()
		return fmt.Errorf("not up after %v: %s", startsIn, strings.Join(b.told, " / "))
	}
}

// stop switches a box off in order, as SIGTERM does.
func (b *box) stop() {
	b.api = nil
	if b.cancel != nil {
		b.cancel()
	}
}

// wait returns when the box is off, with what its last process ended with.
func (b *box) wait() error {
	if b.done != nil {
		b.err = <-b.done
		b.done = nil
	}
	return b.err
}

// kill cuts the power: what was written stays, nothing more is said or written.
// The process that goes on behind the scenes is one that nobody hears, on a disk
// that takes nothing, in a folder that nobody will look at again.
func (b *box) kill() error {
	synctest.Wait()
	b.w.mu.Lock()
	b.w.dead[b.name] = true
	b.w.mu.Unlock()
	b.medium.Crash()
	next := fmt.Sprintf("%s.%d", b.w.path(b.name), b.life)
	if err := os.CopyFS(next, os.DirFS(b.data)); err != nil {
		return fmt.Errorf("keep what %s has on disk: %w", b.name, err)
	}
	b.data = next
	b.stop()
	return nil
}

// logs gathers what all boxes say.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) line(box, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < 8<<20 {
		fmt.Fprintf(&l.b, "%s %-4s %s\n", time.Now().Format("02T15:04:05.000"), box, strings.TrimSpace(text))
	}
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type lineWriter struct {
	l   *logs
	box string
}

func (w lineWriter) Write(p []byte) (int, error) {
	w.l.line(w.box, string(p))
	return len(p), nil
}

func (l *logs) handler(box string) slog.Handler {
	return slog.NewTextHandler(lineWriter{l, box}, &slog.HandlerOptions{Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
}
