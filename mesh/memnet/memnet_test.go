package memnet

import (
	"testing"

	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/meshtest"
)

type fabric struct {
	*Network
	n byte
}

func (f *fabric) Node(t *testing.T) (mesh.Mesh, mesh.Peer) {
	f.n++
	id := mesh.PeerID{f.n}
	x := f.Join(id)
	t.Cleanup(func() { x.Close() })
	return x, mesh.Peer{ID: id, Addrs: []string{"memory"}}
}

func (f *fabric) Cut() { f.Network.Cut(func(a, b mesh.PeerID) bool { return true }) }

func TestMesh(t *testing.T) {
	meshtest.Run(t, func(t *testing.T) meshtest.Fabric { return &fabric{Network: New()} })
}
