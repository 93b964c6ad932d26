package stack

import (
	"context"

	"carrierclass.net/ccnode/internal/site"
)

// Resync asks a phone to fetch its settings again; see b2bua.Server.Resync.
func (c *Stack) Resync(ctx context.Context, b site.Binding, event string) error {
	return c.calls.Resync(ctx, b, event)
}
