package crdt

import (
	"carrierclass.net/ccnode/crdt/mutant"
)

// Plan applies the law of the actor to one cell (state.md §2): a write covers
// all earlier writes of the same actor to that cell.
//
// known is what this node knows of the cell; token, if the person acted on an
// earlier reading, what that reading showed (nil: the present cell). A fresh
// actor is needed when the person's reading is behind the newest stamp of our
// own actor that the cell knows: then the two become a visible conflict
// instead of one silently covering the other.
func Plan(known, token Context, self ActorID) (ctx Context, fresh bool) {
	if token == nil || mutant.Is(mutant.TokenIgnored) {
		return known, false
	}
	return token, token.Get(self) < known.Get(self)
}
