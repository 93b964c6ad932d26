package b2bua

import (
	"context"
	"fmt"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
)

// Resync asks one phone, by one of its bindings, to fetch its settings again: a
// NOTIFY of that event (check-sync) outside of any subscription, as phones'
// makers agreed among themselves; no RFC has it. It returns nil when the phone
// said that it will; it waits as long as ctx does.
func (s *Server) Resync(ctx context.Context, b site.Binding, event string) error {
	o, err := s.reach(b)
	if err != nil {
		return fmt.Errorf("ask %s to fetch its settings: %w", b.AOR.User, err)
	}
	at, err := s.cfg.Edge.Local(o.dest)
	if err != nil {
		return fmt.Errorf("ask %s to fetch its settings: %w", b.AOR.User, err)
	}
	view := s.cfg.View()
	req := sip.NewRequest(sip.NOTIFY, *o.uri.Clone())
	hops := sip.MaxForwardsHeader(70)
	id := sip.CallIDHeader(s.token())
	req.AppendHeader(&hops)
	req.AppendHeader(&sip.FromHeader{Address: sip.Uri{Scheme: "sip", User: "box", Host: route.SiteDomain(view, view.Own().Code)},
		Params: sip.HeaderParams{{K: "tag", V: s.token()}}})
	req.AppendHeader(&sip.ToHeader{Address: aorURI(b.AOR)})
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: sip.NOTIFY})
	req.AppendHeader(&sip.ContactHeader{Address: at.URI("box")})
	req.AppendHeader(sip.NewHeader("Event", event))
	req.AppendHeader(sip.NewHeader("Subscription-State", "terminated;reason=noresource")) // RFC 6665 §8.2.1 wants one
	message.Remove(req, "Content-Length")
	req.SetBody(nil)
	tx := s.layer.Request(ctx, req, o.dest)
	for {
		select {
		case res, open := <-tx.Responses():
			switch {
			case !open:
				return fmt.Errorf("ask %s to fetch its settings: %w", b.AOR.User, tx.Err())
			case res.StatusCode < 200:
			case res.StatusCode < 300:
				return nil
			default:
				return fmt.Errorf("ask %s to fetch its settings: it refused: %d %s", b.AOR.User, res.StatusCode, res.Reason)
			}
		case <-ctx.Done():
			return fmt.Errorf("ask %s to fetch its settings: no answer: %w", b.AOR.User, context.Cause(ctx))
		}
	}
}
