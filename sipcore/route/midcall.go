package route

import "carrierclass.net/ccnode/internal/site"

// Features that change calls instead of answering them; the call room carries
// them out itself.
const (
	Park   site.FeatureName = "park"    // Arg: the orbit, "0" for any that is free
	PickUp site.FeatureName = "pick-up" // Arg: whose telephone rings, "" for a colleague's

	// EmergencyTest goes the way of an emergency call, to a number for tests.
	EmergencyTest site.FeatureName = "emergency-test"
)

// EmergencyTestCode is the code for it. It is far from any emergency number:
// who is in need and presses * first must not end up in a test.
const EmergencyTestCode = "*933"

// MidCall are the codes of those features.
var MidCall = []Code{{Digits: "*7", Feature: Park, Rest: true}, {Digits: "**", Feature: PickUp, Rest: true}, {Digits: "*8", Feature: PickUp},
	{Digits: EmergencyTestCode, Feature: EmergencyTest}}
