package phonetest

import (
	"context"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// A dialog is one end of an RFC 3261 §12 dialog. Who owns it guards it.
type dialog struct {
	callID              string
	local, remote       sip.Uri
	name                string
	localTag, remoteTag string
	target              sip.Uri
	routes              []sip.Uri
	localSeq, remoteSeq uint32
	dest                edge.Dest
}

// newDialog begins one from here to uri, at d.
func (p *Phone) newDialog(to sip.Uri, d edge.Dest) dialog {
	return dialog{callID: p.token(16), local: p.aor(), name: p.cfg.Name, remote: to, target: to, localTag: p.token(6), localSeq: 1, dest: d}
}

// dialogOf begins one at the end that got req.
func (p *Phone) dialogOf(req *sip.Request, tag string, f *edge.Flow) dialog {
	d := dialog{callID: strings.Clone(req.CallID().Value()), local: *req.To().Address.Clone(), remote: *req.From().Address.Clone(),
		name: p.cfg.Name, localTag: tag, remoteTag: req.From().Params.GetOr("tag", ""), remoteSeq: req.CSeq().SeqNo, dest: f.Dest()}
	d.target = d.remote
	d.routes = message.RouteSet(req)
	d.refresh(req)
	return d
}

// refresh takes a new remote target (RFC 3261 §12.2.1.2) and works out where it
// is. A name is not looked up: what is in use stays.
func (d *dialog) refresh(msg interface{ Contact() *sip.ContactHeader }) {
	if c := msg.Contact(); c != nil && !c.Address.Wildcard {
		d.target = *c.Address.Clone()
	}
	hop := d.target
	if len(d.routes) > 0 {
		hop = d.routes[0]
	}
	if to, err := edge.Target(context.Background(), &hop, nil); err == nil {
		d.dest = to[0]
	}
}

// established takes what a 2xx to our request says.
func (d *dialog) established(res *sip.Response) {
	d.remoteTag = res.To().Params.GetOr("tag", "")
	d.routes = message.RouteSet(res)
	d.refresh(res)
}

// request makes a request in the dialog with number seq.
func (d *dialog) request(method sip.RequestMethod, seq uint32) *sip.Request {
	req := sip.NewRequest(method, *d.target.Clone())
	message.SetRoutes(req, d.target, d.routes)
	mf := sip.MaxForwardsHeader(70)
	req.AppendHeader(&mf)
	req.AppendHeader(&sip.FromHeader{DisplayName: d.name, Address: *d.local.Clone(), Params: sip.HeaderParams{{K: "tag", V: d.localTag}}})
	to := &sip.ToHeader{Address: *d.remote.Clone()}
	if d.remoteTag != "" {
		to.Params = sip.HeaderParams{{K: "tag", V: d.remoteTag}}
	}
	req.AppendHeader(to)
	id := sip.CallIDHeader(d.callID)
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: seq, MethodName: method})
	req.AppendHeader(sip.NewHeader("User-Agent", "ccnode-phonetest"))
	req.SetBody(nil)
	return req
}

// next makes the next request in the dialog.
func (d *dialog) next(method sip.RequestMethod) *sip.Request {
	d.localSeq++
	return d.request(method, d.localSeq)
}

// setSDP gives msg a session description.
func setSDP(msg sip.Message, sdp []byte) {
	if sdp != nil {
		ct := sip.ContentTypeHeader("application/sdp")
		msg.AppendHeader(&ct)
	}
	msg.SetBody(sdp)
}

const allow = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO, NOTIFY, MESSAGE, REFER"

// about adds what the phone says of itself.
func (p *Phone) about(msg sip.Message) {
	msg.AppendHeader(&sip.ContactHeader{Address: p.contact(), Params: sip.HeaderParams{{K: "+sip.instance", V: `"<` + p.instance + `>"`}}})
	msg.AppendHeader(sip.NewHeader("Allow", allow))
	msg.AppendHeader(sip.NewHeader("Supported", "replaces"))
}
