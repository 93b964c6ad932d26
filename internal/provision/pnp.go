package provision

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Group is where phones ask when they know nobody (RFC 6080 §5.1.1 names its
// successor; all vendors use this one).
var Group = netip.MustParseAddrPort("224.0.1.75:5060")

// A Conn is a UDP socket. *net.UDPConn is one.
type Conn interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// Retransmission of a NOTIFY (RFC 3261 §17.1.2.2, cut short: the phone asks
// again at its next boot).
const (
	timerT1    = 500 * time.Millisecond
	maxSends   = 5
	maxPending = 64
)

// A responder answers on one network.
type responder struct {
	s   *Service
	own Conn

	mu      sync.Mutex // guards pending
	pending map[string]*pending
}

// pending is a NOTIFY that has no answer yet.
type pending struct {
	from netip.AddrPort
	notice
	done context.CancelFunc
}

// ServePnP tells phones that ask on group where their first file is, for as
// long as ctx lives; then it closes both sockets and returns nil. Answers
// leave from own, bound to this node's address on that network, and go only to
// where the question came from: to adopted phones of the LAN, while a window
// is open. Everybody else who asks is merely seen.
func (s *Service) ServePnP(ctx context.Context, group, own Conn) error {
	r := &responder{s: s, own: own, pending: map[string]*pending{}}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		group.Close()
		own.Close()
	})
	defer func() {
		cancel()
		stop()
		group.Close()
		own.Close()
		wg.Wait()
	}()
	var second error
	wg.Go(func() { // ends when own closes
		second = receive(ctx, own, r.acknowledge)
		cancel()
	})
	first := receive(ctx, group, func(b []byte, src netip.AddrPort) { r.subscribe(ctx, &wg, b, src) })
	cancel()
	wg.Wait()
	return errors.Join(first, second)
}

// receive hands on what arrives until ctx ends.
func receive(ctx context.Context, c Conn, each func([]byte, netip.AddrPort)) error {
	var b [maxMessage + 1]byte
	for {
		n, src, err := c.ReadFromUDPAddrPort(b[:])
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("listen for phones on %s: %w", c.LocalAddr(), err)
		case err != nil: // a refusal of an earlier answer: nothing to do about it
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		each(b[:n], netip.AddrPortFrom(src.Addr().Unmap(), src.Port()))
	}
}

func (r *responder) subscribe(ctx context.Context, wg *sync.WaitGroup, b []byte, src netip.AddrPort) {
	s := r.s
	if _, ours := s.cfg.LAN(src.Addr().WithZone("")); !ours || src.Port() == 0 {
		s.tally(func(c *Stats) { c.Foreign++ })
		return
	}
	s.mu.Lock()
	allowed := s.air.allow(src.Addr(), s.cfg.Now())
	if !allowed {
		s.stats.Limited++
	}
	s.mu.Unlock()
	if !allowed {
		return
	}
	sub, err := parseSubscribe(b)
	if err != nil || !sub.named {
		return // other things are said on this group
	}
	r.mu.Lock()
	again := r.pending[sub.callID]
	r.mu.Unlock()
	if again != nil {
		if again.from == src {
			r.own.WriteToUDPAddrPort(again.accept, again.to)
		}
		return
	}
	url, ok := s.invite(ctx, sub, src.Addr())
	if !ok {
		return
	}
	var random [24]byte
	if _, err := io.ReadFull(s.cfg.Rand, random[:]); err != nil {
		s.cfg.Log.Error("Phone could not be answered", "mac", sub.mac, "err", err)
		return
	}
	own, _ := netip.ParseAddrPort(r.own.LocalAddr().String())
	p := &pending{from: src, notice: sub.answer(src, own, hex.EncodeToString(random[:8]), hex.EncodeToString(random[8:]), url)}
	life, done := context.WithCancel(ctx)
	p.done = done
	r.mu.Lock()
	full := len(r.pending) >= maxPending
	if !full {
		r.pending[sub.callID] = p
	}
	r.mu.Unlock()
	if full {
		done()
		s.tally(func(c *Stats) { c.Limited++ })
		return
	}
	s.tally(func(c *Stats) { c.PnP++ })
	s.cfg.Log.Info("Phone asked where its settings are", "mac", sub.mac, "from", src.Addr(), "vendor", sub.vendor, "model", sub.model)
	r.own.WriteToUDPAddrPort(p.accept, p.to)
	wg.Go(func() { // ends with the phone's answer, the last try or ctx
		defer r.forget(sub.callID, done)
		for wait, i := timerT1, 0; i < maxSends; wait, i = 2*wait, i+1 {
			if _, err := r.own.WriteToUDPAddrPort(p.notify, p.notifyTo); err != nil {
				s.cfg.Log.Debug("NOTIFY could not be sent", "mac", sub.mac, "err", err)
			}
			t := time.NewTimer(wait)
			select {
			case <-life.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
	})
}

func (r *responder) forget(callID string, done context.CancelFunc) {
	done()
	r.mu.Lock()
	delete(r.pending, callID)
	r.mu.Unlock()
}

func (r *responder) acknowledge(b []byte, src netip.AddrPort) {
	callID, ok := acknowledged(b)
	if !ok {
		return
	}
	r.mu.Lock()
	p := r.pending[callID]
	r.mu.Unlock()
	if p != nil && p.from.Addr() == src.Addr() {
		p.done()
	}
}

// invite notes who asked and returns the URL of its first file if it may have
// one now.
func (s *Service) invite(ctx context.Context, sub *subscription, from netip.Addr) (string, bool) {
	p, err := s.cfg.Phone(ctx, sub.mac)
	known := err == nil && p != nil && p.MAC == sub.mac
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(sub.mac, from, sub.vendor, sub.model, sub.version).Adopted = known
	switch {
	case !s.open():
		s.stats.Closed++
		return "", false
	case !known:
		s.stats.Unknown++
		return "", false
	case !meant(s.only, sub.mac):
		s.stats.Closed++
		return "", false
	}
	k, ok := kinds[p.Kind]
	if !ok {
		s.stats.Failed++
		return "", false
	}
	return k.link("http://"+s.cfg.HTTP.String()+"/p/", sub.mac), true
}
