package p2p

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// WatchNetwork calls changed after an interface, an address or a route came or
// went, some moments later and once for many changes, until ctx ends. It is
// what makes a plugged-in cable worth a redial at once; it sends nothing.
func WatchNetwork(ctx context.Context, changed func()) error {
	links, addrs, routes := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16), make(chan netlink.RouteUpdate, 16)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return fmt.Errorf("watch the network's interfaces: %w", err)
	}
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		return fmt.Errorf("watch the network's addresses: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		return fmt.Errorf("watch the network's routes: %w", err)
	}
	var settle <-chan time.Time
	for {
		ok := true
		select {
		case <-ctx.Done():
			return nil
		case _, ok = <-links:
		case _, ok = <-addrs:
		case _, ok = <-routes:
		case <-settle:
			settle = nil
			changed()
			continue
		}
		if !ok {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the kernel stopped telling of network changes")
		}
		if settle == nil {
			settle = time.After(300 * time.Millisecond)
		}
	}
}
