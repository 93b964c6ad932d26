package node

import (
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore"
)

// nightLook is how often the clock is asked whether the shop has closed; who
// dials the code is not kept waiting for it.
const nightLook = 5 * time.Second

// nightLamp lights the lamp of the night switch, for whoever has a key for it,
// while callers meet the closed shop. It ends with stop.
func (n *Node) nightLamp(lamps sipcore.Lamps, stop <-chan struct{}) {
	t := time.NewTicker(nightLook)
	defer t.Stop()
	lit := false
	for {
		if now := n.atNight(); now != lit {
			lit = now
			var show []sipcore.DialogState
			if lit {
				at := site.AOR{User: nightCode, Domain: n.member.Domain}
				show = []sipcore.DialogState{{Chain: nightChain, AOR: at, Recipient: true, Confirmed: true, Remote: site.Party{AOR: at, Display: "Night"}}}
			}
			lamps.Set(nightChain, show)
		}
		select {
		case <-stop:
			return
		case <-t.C:
		case <-n.nightTurned:
		}
	}
}

// nightChain stands where calls have their chain id.
const nightChain = "night-switch"

// atNight says that the shop is closed for callers now. Without opening hours
// it never is.
func (n *Node) atNight() bool {
	for _, h := range state.List[site.Hours](n.state) {
		if open, _, err := n.openNow(h); err == nil {
			return !open
		}
	}
	return false
}
