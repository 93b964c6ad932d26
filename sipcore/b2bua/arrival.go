package b2bua

import (
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/trunk"
)

// An Arrival is a call from outside as the pair's other node would see it, too,
// when the provider forks the INVITE to both (calls.md §6).
type Arrival struct {
	Trunk   string
	CallID  string
	FromTag string
	CSeq    uint32 // of the first INVITE: a new attempt has another one
	Caller  string // "" if it is not said or not to be shown
	Called  string
}

func arrival(in trunk.Inbound, req *sip.Request) Arrival {
	a := Arrival{Trunk: in.Trunk, CallID: strings.Clone(req.CallID().Value()), CSeq: req.CSeq().SeqNo, Called: in.Called}
	a.FromTag, _ = req.From().Params.Get("tag")
	if !in.Hidden {
		a.Caller = in.Caller
	}
	return a
}
