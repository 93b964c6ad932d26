package b2bua

import (
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
)

// Tell shows a text on every phone of a line that this node can send to
// (MESSAGE, RFC 3428 §4). It does not wait for their answers; a phone that
// cannot show texts refuses it.
func (s *Server) Tell(line site.AOR, from, text string) (phones int) {
	view := s.cfg.View()
	for _, b := range s.cfg.Location.Bindings(line) {
		o, err := s.reach(b)
		if err != nil {
			continue
		}
		req := sip.NewRequest(sip.MESSAGE, *o.uri.Clone())
		hops := sip.MaxForwardsHeader(70)
		id := sip.CallIDHeader(s.token())
		req.AppendHeader(&hops)
		req.AppendHeader(&sip.FromHeader{DisplayName: display(from), Address: sip.Uri{Scheme: "sip", User: "box", Host: route.SiteDomain(view, view.Own().Code)},
			Params: sip.HeaderParams{{K: "tag", V: s.token()}}})
		req.AppendHeader(&sip.ToHeader{Address: aorURI(line)})
		req.AppendHeader(&id)
		req.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: sip.MESSAGE})
		req.AppendHeader(sip.NewHeader("Date", s.cfg.Now().UTC().Format(time.RFC1123[:len(time.RFC1123)-3]+"GMT")))
		req.AppendHeader(sip.NewHeader("Content-Type", "text/plain;charset=utf-8"))
		message.Remove(req, "Content-Length")
		req.SetBody([]byte(text))
		s.send(req, o.dest)
		phones++
	}
	return phones
}
