package node

import (
	"carrierclass.net/ccnode/internal/pair"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/blf"
)

// board is what the lamps show, in the words of the pair.
type board struct{ t *blf.Table }

func (b board) Chains() []string { return b.t.Chains() }

func (b board) Call(chain string) pair.LampCall {
	out := pair.LampCall{Chain: chain}
	for _, d := range b.t.Call(chain) {
		out.Lamps = append(out.Lamps, pair.Lamp{AOR: d.AOR, Recipient: d.Recipient, Confirmed: d.Confirmed, Parked: d.Parked, Remote: d.Remote})
	}
	return out
}

func (b board) Learn(from site.NodeID, c pair.LampCall) {
	var states []sipcore.DialogState
	for _, l := range c.Lamps {
		states = append(states, sipcore.DialogState{AOR: l.AOR, Recipient: l.Recipient, Confirmed: l.Confirmed, Parked: l.Parked, Remote: l.Remote})
	}
	b.t.Learn(from, c.Chain, states)
}

func (b board) Keep(from site.NodeID, chains map[string]bool) { b.t.Keep(from, chains) }
