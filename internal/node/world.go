package node

import (
	"net/netip"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/sipcore/edge"
)

// A World stands for everything outside the process: networks, the store's
// medium, the kernel's clock discipline. The real one is the default; test/world
// hands in one that lives in memory, so that whole nodes run in virtual time.
// Every field is needed.
type World struct {
	Mesh    func(id mesh.PeerID) (Wire, error)                // instead of TCP
	Store   func() (disk.Store, error)                        // instead of Badger in the data folder
	SIP     func(*edge.Edge) error                            // gives the edge its sockets
	Media   func(at netip.AddrPort) (media.PacketConn, error) // instead of UDP
	Synced  func() bool                                       // whether the clock is disciplined
	Wall    func() time.Time                                  // the time of day that changes are stamped with; nil: Options.Now
	Machine string                                            // names the hardware
	Ready   func(api.Backend)                                 // called when phones are served: instead of listeners of the interface
}

// A Wire is the mesh, and can end the connections that a stranger joined over.
type Wire interface {
	mesh.Mesh
	Hangup(mesh.PeerID)
}

// wall is the time of day by this machine; nil: now's.
func (n *Node) wall() func() time.Time {
	if w := n.opt.World; w != nil {
		return w.Wall
	}
	return nil
}

// synced says whether somebody keeps the clock right.
func (n *Node) synced() bool {
	if w := n.opt.World; w != nil {
		return w.Synced()
	}
	return clockSynced()
}

// machine names the hardware this node runs on.
func (n *Node) machine() string {
	if w := n.opt.World; w != nil {
		return w.Machine
	}
	return machineID()
}

// bindSIP lets a World give signalling its sockets; nil: it binds its own.
func (n *Node) bindSIP() func(*edge.Edge) error {
	if w := n.opt.World; w != nil {
		return w.SIP
	}
	return nil
}
