package trunk

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// tokenParam is the URI parameter by which we know our Contact again.
const tokenParam = "line"

// contact is our Contact towards d.
func (r *reg) contact(d edge.Dest) (*sip.ContactHeader, error) {
	at, err := r.t.cfg.Edge.Local(d)
	if err != nil {
		return nil, err
	}
	u := at.URI(r.cfg.User)
	if r.cfg.PublicContact && r.public.IsValid() {
		u.Host, u.Port = message.Host(r.public.Addr()), int(r.public.Port())
	}
	u.UriParams = append(slices.Clone(u.UriParams), sip.HeaderKV{K: tokenParam, V: r.line.token})
	return &sip.ContactHeader{Address: u}, nil
}

// request makes a REGISTER or OPTIONS to the provider, with the credentials
// that it wanted last.
func (r *reg) request(method sip.RequestMethod, expires time.Duration, contact *sip.ContactHeader) (*sip.Request, error) {
	target := sip.Uri{Scheme: "sip", Host: bracketed(r.cfg.Domain)}
	if r.cfg.Proxy == "" && r.cfg.Domain == r.cfg.Server {
		target.Port = r.cfg.Port
	}
	aor := sip.Uri{Scheme: "sip", User: r.cfg.User, Host: bracketed(r.cfg.Domain)}
	req := sip.NewRequest(method, target)
	mf := sip.MaxForwardsHeader(70)
	req.AppendHeader(&mf)
	req.AppendHeader(&sip.FromHeader{Address: aor, Params: sip.HeaderParams{{K: "tag", V: r.tag}}})
	callID := r.callID
	if method == sip.REGISTER {
		req.AppendHeader(&sip.ToHeader{Address: *aor.Clone()})
	} else {
		req.AppendHeader(&sip.ToHeader{Address: *target.Clone()})
		callID += "-o"
	}
	id := sip.CallIDHeader(callID)
	req.AppendHeader(&id)
	r.seq++
	req.AppendHeader(&sip.CSeqHeader{SeqNo: r.seq, MethodName: method})
	req.AppendHeader(contact.Clone())
	if method == sip.REGISTER {
		req.AppendHeader(sip.NewHeader("Expires", strconv.Itoa(int(expires/time.Second))))
	}
	req.AppendHeader(sip.NewHeader("User-Agent", r.t.cfg.UserAgent))
	for _, code := range slices.Sorted(maps.Keys(r.creds)) {
		a := r.creds[code]
		a.nc++
		h, err := r.cfg.credentialsFor(a.Challenge, code, req, r.t.token(), a.nc)
		if err != nil {
			return nil, fmt.Errorf("answer the challenge of trunk %q: %w", r.cfg.Name, err)
		}
		req.AppendHeader(h)
	}
	req.SetBody(nil)
	return req, nil
}

func bracketed(host string) string {
	if a, ok := message.Addr(host); ok {
		return message.Host(a)
	}
	return host
}

// heard notes what an answer tells besides its status.
func (r *reg) heard(req *sip.Request, res *sip.Response, from edge.Dest, contact *sip.ContactHeader) {
	now := r.t.cfg.Now()
	via, ours := res.Via(), req.Via()
	public := publicOf(via)
	if public.IsValid() {
		r.public = public
	}
	altered := ours != nil && (!strings.EqualFold(via.Host, ours.Host) || orElse(via.Port, 5060) != orElse(ours.Port, 5060))
	off := time.Duration(0)
	if date, err := time.Parse(time.RFC1123, message.Get(res, "Date")); err == nil {
		if off = date.Sub(now); off.Abs() <= time.Minute {
			off = 0
		}
	}
	r.line.show(func(s *State) {
		s.Status, s.Reason, s.At = res.StatusCode, res.Reason, now
		s.Contact, s.ClockOff = contact.Address.String(), off
		s.ALG = altered
		if public.IsValid() {
			s.Public = public
			s.NAT = ours != nil && public.Addr().String() != strings.Trim(ours.Host, "[]")
		}
	})
	r.line.mu.Lock()
	r.line.flow = nil
	if from.Flow != nil && from.Flow.Transport != site.UDP {
		r.line.flow = from.Flow
	}
	r.line.mu.Unlock()
}

// publicOf is where the other end saw our request come from (RFC 3581 §4).
func publicOf(via *sip.ViaHeader) netip.AddrPort {
	host, ok := via.Params.Get("received")
	if !ok || host == "" {
		host = via.Host
	}
	a, ok := message.Addr(host)
	port, err := strconv.ParseUint(via.Params.GetOr("rport", ""), 10, 16)
	if !ok || err != nil || port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port))
}

// hostOf is the address in a Contact of ours.
func hostOf(u *sip.Uri) netip.AddrPort {
	if u == nil {
		return netip.AddrPort{}
	}
	a, _ := message.Addr(u.Host)
	return netip.AddrPortFrom(a, uint16(orElse(u.Port, 5060)))
}

// success reads a 2xx: how long which Contact is registered (RFC 3261 §10.2.4).
func (r *reg) success(res *sip.Response, req *sip.Request, contact *sip.ContactHeader, expires time.Duration) result {
	if expires == 0 {
		return result{phase: Closed}
	}
	f := findOwn(res, &contact.Address, r.public, expires)
	r.said = contact.Address.Clone()
	r.line.show(func(s *State) {
		s.Listed, s.Others = f.listed, f.others
		s.ALG = s.ALG || f.altered
	})
	if f.granted <= 0 {
		return result{phase: Refused, err: fmt.Errorf("%d, but our contact is not registered", res.StatusCode)}
	}
	r.line.answered(r.at)
	out := result{phase: Registered, granted: min(f.granted, maxExpires)}
	if f.listed == "" && f.others > 0 {
		out.err = fmt.Errorf("our contact is not among the %d that the provider lists", f.others)
	}
	return out
}

// removeOld unregisters the Contact that was ours before our address changed.
// It is done first: some registrars take it for all contacts.
func (r *reg) removeOld(ctx context.Context, to edge.Dest) {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	old := &sip.ContactHeader{Address: *r.said}
	r.said = nil
	r.remove(ctx, to, old)
}

// leave unregisters, if there is something to unregister.
func (r *reg) leave() {
	if r.cfg.Kind != Register || r.said == nil || !r.until.After(r.t.cfg.Now()) {
		return
	}
	ctx, cancel := r.t.goodbye()
	defer cancel()
	r.remove(ctx, r.at, &sip.ContactHeader{Address: *r.said})
	r.said, r.until = nil, time.Time{}
}

// remove unregisters one Contact. Whether it works changes nothing: it expires.
func (r *reg) remove(ctx context.Context, to edge.Dest, contact *sip.ContactHeader) {
	r.unfresh(0)
	defer r.unfresh(0)
	for range 3 { // unasked credentials, a new challenge, a stale one
		req, err := r.request(sip.REGISTER, 0, contact)
		if err != nil {
			return
		}
		var final *sip.Response
		for res := range r.t.cfg.Layer.Request(ctx, req, to).Responses() {
			if !res.IsProvisional() {
				final = res
			}
		}
		if final == nil || final.StatusCode != 401 && final.StatusCode != 407 {
			return
		}
		if _, again := r.challenged(final, req); !again {
			return
		}
	}
}
