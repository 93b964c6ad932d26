package state

import (
	"context"
	"fmt"

	"carrierclass.net/ccnode/crdt"
)

// WriteAdmin writes records of administrators (trust.AdminWrite and its like)
// for by. Whether this box may is judged like any other change.
func (s *State) WriteAdmin(ctx context.Context, by string, ws ...crdt.Write) error {
	ref, _ := byRef(by)
	if _, err := s.commit(ctx, Mutation{Scope: crdt.Trust, Writes: ws, By: ref}); err != nil {
		return fmt.Errorf("write an administrator's record: %w", err)
	}
	return nil
}
