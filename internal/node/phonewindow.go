package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// provisioning is the window as the interface sees it. The nodes of a pair have
// the same: what is done at one is told to the other, and a phone may ask either.
type provisioning struct{ n *Node }

var _ api.Provisioning = provisioning{}

// ready returns the room and its services, or says why there are none.
func (x provisioning) ready() (*phones, []*phoneLAN, error) {
	p := x.n.phones
	if p == nil {
		return nil, nil, api.Unavailable("this box gives phones no settings", "ask another box of the site")
	}
	lans := slices.DeleteFunc(slices.Clone(p.lans), func(l *phoneLAN) bool { return l.now.Load() == nil })
	if len(lans) > 0 {
		return p, lans, nil
	}
	why := strings.Join(p.complaints(), "; ")
	if why == "" {
		why = "it has no key of its site yet"
	}
	return nil, nil, api.Unavailable("this box gives phones no settings: "+why, "try again when that is settled")
}

func (x provisioning) Open(ctx context.Context, d time.Duration, macs []string) (api.PhoneWindow, error) {
	_, lans, err := x.ready()
	if err != nil {
		return api.PhoneWindow{}, err
	}
	var only []provision.MAC
	for _, s := range macs {
		m, err := provision.ParseMAC(s)
		if err != nil {
			return api.PhoneWindow{}, api.Invalid(err.Error(), "it is printed on the phone's back")
		}
		only = append(only, m)
	}
	if d <= 0 || d > provision.MaxWindow {
		return api.PhoneWindow{}, api.Invalid(fmt.Sprintf("a window of %v", d), fmt.Sprintf("open it for at most %v", provision.MaxWindow))
	}
	for _, l := range lans {
		if _, err := l.now.Load().Open(d, only...); err != nil {
			return api.PhoneWindow{}, api.Invalid(err.Error(), "correct it and try again")
		}
	}
	x.n.phones.changed()
	return x.Window(ctx)
}

func (x provisioning) Window(context.Context) (api.PhoneWindow, error) {
	p, lans, err := x.ready()
	if err != nil {
		return api.PhoneWindow{}, err
	}
	var out api.PhoneWindow
	for _, l := range lans {
		until, only := l.now.Load().Window()
		if !until.IsZero() {
			out.Open, out.Until, out.MACs = true, &until, nil
			for _, m := range only {
				out.MACs = append(out.MACs, m.String())
			}
		}
		out.URLs = append(out.URLs, firstURL(netip.AddrPortFrom(l.addr, uint16(x.n.cfg.PhoneHTTP))))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out.Shared = out.Open && p.shared.Load()
	out.CA = string(p.ca.pem)
	return out, nil
}

func (x provisioning) Close(context.Context) error {
	_, lans, err := x.ready()
	if err != nil {
		return err
	}
	for _, l := range lans {
		l.now.Load().Close()
	}
	x.n.phones.changed()
	return nil
}

func (x provisioning) Seen(ctx context.Context) ([]api.SeenPhone, error) {
	p, lans, err := x.ready()
	if err != nil {
		return nil, err
	}
	at := map[provision.MAC]int{}
	var out []api.SeenPhone
	for _, l := range lans {
		for _, d := range l.now.Load().Owed(ctx) {
			s := api.SeenPhone{MAC: d.MAC.String(), Vendor: d.Vendor, Model: d.Model, Version: d.Version, Kind: string(kindOf(d)), Addr: d.Addr.String(),
				First: d.First, Last: d.Last, Times: d.Times, Owed: d.Owed}
			if !d.Fetched.IsZero() {
				s.Fetched = &d.Fetched
			}
			if rec, ok := p.record(d.MAC); ok {
				s.Phone, s.Trouble = rec.Name, p.trouble(ctx, d.MAC, l)
			}
			i, ok := at[d.MAC]
			switch {
			case !ok:
				at[d.MAC] = len(out)
				out = append(out, s)
			case out[i].Last.Before(s.Last): // it asked in two networks of ours
				out[i] = s
			}
		}
	}
	slices.SortFunc(out, func(a, b api.SeenPhone) int { return b.Last.Compare(a.Last) })
	return out, nil
}

// trouble says why a phone would get no settings; "" if it would.
func (p *phones) trouble(ctx context.Context, m provision.MAC, l *phoneLAN) string {
	ph, err := p.phone(ctx, m, l)
	if err == nil {
		_, err = provision.Render(ph, p.n.now(), firstURL(netip.AddrPortFrom(l.addr, 0)))
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func (x provisioning) Codes(ctx context.Context, _, who string) (out api.PhoneCodes, err error) {
	p, _, err := x.ready()
	if err != nil {
		return out, err
	}
	rec, err := state.Named[site.Phone](x.n.state, who)
	if err != nil {
		return out, refuse(err)
	}
	out.AdminUser = "admin"
	if out.AdminPassword, err = p.adminPassword(ctx, rec.ID); err != nil {
		return out, refuse(err)
	}
	for _, k := range provision.Kinds() {
		if m, err := provision.ParseMAC(rec.MAC); err == nil && k.DECT && string(k.Kind) == rec.Vendor {
			out.DECT = p.dectCode(m)
		}
	}
	return out, nil
}
