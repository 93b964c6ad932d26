package route

import "carrierclass.net/ccnode/internal/site"

// Features that change calls instead of answering them; the call room carries
// them out itself.
const (
	Park   site.FeatureName = "park"    // Arg: the orbit, "0" for any that is free
	PickUp site.FeatureName = "pick-up" // Arg: whose telephone rings, "" for a colleague's
)

// MidCall are the codes of those features.
var MidCall = []Code{{Digits: "*7", Feature: Park, Rest: true}, {Digits: "**", Feature: PickUp, Rest: true}, {Digits: "*8", Feature: PickUp}}
