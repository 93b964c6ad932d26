package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"carrierclass.net/ccnode/internal/pair"
	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
)

// pairPhonesProtocol carries the window from node to node of a site.
const pairPhonesProtocol = "/ccnode/phones/1"

const (
	windowPause    = 5 * time.Second // after the other node could not be told
	windowPauseMax = time.Minute
	readyPause     = 500 * time.Millisecond // a box that starts gives settings soon
)

var (
	errAlone    = errors.New("the site has one box") // there is nobody to tell
	errNotReady = errors.New("this box gives no settings yet")
)

// shareWindow keeps the window of the pair's nodes the same: what a person does
// at one is told to the other as soon as that can be reached, and whenever the
// two find each other each asks: a silent pair says nothing for this. It ends
// with ctx.
func (p *phones) shareWindow(ctx context.Context) {
	n := p.n
	n.mesh.Handle(pairPhonesProtocol, func(s mesh.Stream) {
		if x, ok := n.state.Node(site.NodeID(s.Peer())); !ok || x.Site != n.member.Site {
			s.Close()
			return
		}
		if err := pair.HearWindow(s, p.told, p.window); err != nil {
			n.log.Debug("The pair's word of the phones' window was not taken", "err", err)
		}
	})
	p.wg.Go(func() {
		pause, owed := windowPause, false
		var next <-chan time.Time
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.opened:
				pause, owed = windowPause, true // what is done here counts
			case <-n.pairFound:
			case <-next:
			}
			next = nil
			if err := p.exchange(ctx, owed); err != nil {
				p.shared.Store(false)
				if !errors.Is(err, errAlone) {
					p.log.Debug("The pair's other node does not know of the phones' window", "err", err)
				}
				switch {
				case owed:
					next = time.After(pause)
					pause = min(2*pause, windowPauseMax)
				case errors.Is(err, errNotReady): // nothing was sent
					next = time.After(readyPause)
				}
				continue
			}
			p.shared.Store(owed || p.window().Left > 0)
			pause, owed = windowPause, false
		}
	})
}

// exchange tells the other node our window, or takes its.
func (p *phones) exchange(ctx context.Context, tell bool) error {
	n := p.n
	n.pairMu.Lock()
	other := n.pairNode
	n.pairMu.Unlock()
	if other.IsZero() {
		return errAlone
	}
	if !tell && !p.ready() {
		return errNotReady
	}
	dctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := n.mesh.OpenStream(dctx, mesh.PeerID(other), pairPhonesProtocol)
	if err != nil {
		return fmt.Errorf("reach the pair's other node: %w", err)
	}
	if tell {
		return pair.TellWindow(c, p.window())
	}
	w, err := pair.AskWindow(c)
	if err != nil || w.Left == 0 || p.window().Left > 0 {
		return err
	}
	return p.told(w)
}

func (p *phones) ready() bool {
	for _, l := range p.lans {
		if l.now.Load() != nil {
			return true
		}
	}
	return false
}

// window is what is open here.
func (p *phones) window() (w pair.Window) {
	for _, l := range p.lans {
		s := l.now.Load()
		if s == nil {
			continue
		}
		until, only := s.Window()
		if until.IsZero() {
			continue
		}
		w = pair.Window{Left: until.Sub(p.n.now())}
		for _, m := range only {
			w.MACs = append(w.MACs, m.String())
		}
	}
	return w
}

// told does what a person did at the other node.
func (p *phones) told(w pair.Window) error {
	var only []provision.MAC
	for _, s := range w.MACs {
		m, err := provision.ParseMAC(s)
		if err != nil {
			return err
		}
		only = append(only, m)
	}
	if !p.ready() {
		return errors.New("this box gives no settings")
	}
	for _, l := range p.lans {
		s := l.now.Load()
		switch {
		case s == nil:
		case w.Left == 0:
			s.Close()
		default:
			if _, err := s.Open(min(w.Left, provision.MaxWindow), only...); err != nil {
				return err
			}
		}
	}
	p.shared.Store(w.Left > 0)
	return nil
}

// changed says that a person opened or closed the window here.
func (p *phones) changed() {
	select {
	case p.opened <- struct{}{}:
	default:
	}
}
