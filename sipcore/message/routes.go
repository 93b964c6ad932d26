package message

import (
	"slices"

	"github.com/emiago/sipgo/sip"
)

// RouteSet is the route set a dialog gets from a message (RFC 3261 §12.1): the
// Record-Route URIs, in order at the UAS (from a request), reversed at the UAC
// (from a response).
func RouteSet(msg any) []sip.Uri {
	var out []sip.Uri
	for _, h := range headers(msg) {
		if r, ok := h.(*sip.RecordRouteHeader); ok {
			out = append(out, *r.Address.Clone())
		}
	}
	if _, ok := msg.(*sip.Response); ok {
		slices.Reverse(out)
	}
	return out
}

// SetRoutes gives an in-dialog request its Request-URI and Route headers from
// the remote target and the route set, loose or strict (RFC 3261 §12.2.1.1).
func SetRoutes(req *sip.Request, target sip.Uri, routes []sip.Uri) {
	Remove(req, "Route")
	req.Recipient = *target.Clone()
	if len(routes) > 0 && !routes[0].UriParams.Has("lr") { // a strict router
		req.Recipient = *routes[0].Clone()
		req.Recipient.Headers = nil
		routes = append(slices.Clone(routes[1:]), target)
	}
	for i := range routes {
		req.AppendHeader(&sip.RouteHeader{Address: *routes[i].Clone()})
	}
}

// NextHop is the URI whose host a request is sent to (RFC 3261 §8.1.2): the
// topmost Route when it is loose, else the Request-URI.
func NextHop(req *sip.Request) *sip.Uri {
	if r := req.Route(); r != nil && r.Address.UriParams.Has("lr") {
		return &r.Address
	}
	return &req.Recipient
}
