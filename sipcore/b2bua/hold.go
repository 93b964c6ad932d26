package b2bua

import (
	"bytes"
	"context"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
)

// holds says whether a description puts the call on hold (RFC 3264 §8.4): its
// first stream that is not refused is sendonly or inactive, or, as old phones
// do it, comes from nowhere.
func holds(sdp []byte) bool {
	session, dir, here := "", "", ""
	nowhere, media, live := false, false, false
	for line := range bytes.Lines(sdp) {
		s := strings.TrimSpace(string(line))
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			continue
		}
		switch {
		case k == "m":
			if live {
				return judge(here, session, nowhere)
			}
			f := strings.Fields(v)
			media, here = true, ""
			live = len(f) > 1 && f[1] != "0"
		case k == "c":
			f := strings.Fields(v)
			if len(f) != 3 || media && !live {
				continue
			}
			if a, err := netip.ParseAddr(f[2]); err == nil {
				nowhere = a.IsUnspecified()
			}
		case k == "a" && (v == "sendonly" || v == "inactive" || v == "sendrecv" || v == "recvonly"):
			if dir = v; media {
				here = dir
			} else {
				session = dir
			}
		}
	}
	return live && judge(here, session, nowhere)
}

func judge(here, session string, nowhere bool) bool {
	if here == "" {
		here = session
	}
	return nowhere || here == "sendonly" || here == "inactive"
}

// ours says whether the leg is a telephone of this site; a trunk or another
// node that holds sends its own music, or tells its own side.
func (l *Leg) ours() bool { return l.peer.IsZero() && l.trunk == "" && l.line.User != "" }

// hold answers an offer of a phone that begins or ends a hold, without telling
// the other leg: it hears music meanwhile. ok is false if the offer is to be
// passed on: it is neither, or what was agreed no longer fits.
func (l *Leg) hold(other *Leg, sdp []byte) (answer []byte, ok bool, err error) {
	if other == nil || l.srv.cfg.Sound == nil || !l.ours() {
		return nil, false, nil
	}
	now := holds(sdp)
	l.mu.Lock()
	before := l.holding
	l.mu.Unlock()
	if now == before && !now {
		return nil, false, nil
	}
	if err := l.port.SetRemote(sdp); err != nil {
		return nil, true, err
	}
	other.mu.Lock()
	said := other.said
	other.mu.Unlock()
	answer, err = l.port.Local(said)
	switch {
	case err == nil:
	case now:
		if answer, err = l.port.Local(nil); err != nil {
			return nil, true, err
		}
	default: // what the other end was brought to speak meanwhile is not offered
		l.mu.Lock()
		l.holding = false
		l.mu.Unlock()
		other.hush()
		return nil, false, nil
	}
	l.mu.Lock()
	l.holding = now
	l.mu.Unlock()
	c := l.call()
	if err := c.bridge(l, other); err != nil {
		return nil, true, err
	}
	return answer, true, nil
}

// reoffer asks the other end of l to speak what template says.
func (l *Leg) reoffer(ctx context.Context, template []byte) error {
	offer, err := l.port.Local(template)
	if err != nil {
		return err
	}
	res, err := l.reinvite(ctx, sip.INVITE, offer, nil)
	if err == nil && !res.IsSuccess() {
		err = causeOf(res)
	}
	if err == nil {
		if theirs, ok := sdpOf(res); !ok || theirs == nil {
			err = site.NotAcceptable
		} else if err = l.port.SetRemote(theirs); err == nil {
			l.mu.Lock()
			l.heard = append([]byte(nil), theirs...)
			l.mu.Unlock()
			return nil
		}
	}
	if r, ok := l.port.(interface{ Rollback() }); ok {
		r.Rollback()
	}
	return err
}
