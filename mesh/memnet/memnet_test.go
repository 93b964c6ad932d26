package memnet

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

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

// TestOrder: frames that are on their way together arrive as they were sent.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := New()
		net.Delay(30 * time.Millisecond)
		a, b := net.Join(mesh.PeerID{1}), net.Join(mesh.PeerID{2})
		defer a.Close()
		defer b.Close()
		a.Admit([]mesh.Peer{{ID: mesh.PeerID{2}, Addrs: []string{"b"}}})
		b.Admit([]mesh.Peer{{ID: mesh.PeerID{1}, Addrs: []string{"a"}}})
		a.Dial(mesh.PeerID{2})
		if ev := <-a.Events(); ev.Kind != mesh.LinkUp {
			t.Fatalf("got %v", ev)
		}
		<-b.Events()
		sent := time.Now()
		for i := range 200 {
			a.Send(mesh.Frame{Peer: mesh.PeerID{2}, Body: []byte{byte(i)}})
		}
		for i := range 200 {
			if ev := <-b.Events(); ev.Kind != mesh.Received || ev.Body[0] != byte(i) {
				t.Fatalf("frame %d: got %v %v", i, ev.Kind, ev.Body)
			}
		}
		if got := time.Since(sent); got != 30*time.Millisecond {
			t.Errorf("arrived after %v", got)
		}
	})
}

// TestLostStream: a stream that lost something does not go on without it.
func TestLostStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := New()
		a, b := net.Join(mesh.PeerID{1}), net.Join(mesh.PeerID{2})
		defer a.Close()
		defer b.Close()
		a.Admit([]mesh.Peer{{ID: mesh.PeerID{2}, Addrs: []string{"b"}}})
		b.Admit([]mesh.Peer{{ID: mesh.PeerID{1}, Addrs: []string{"a"}}})
		got := make(chan string, 1)
		b.Handle("/x/1", func(s mesh.Stream) {
			all, _ := io.ReadAll(s)
			got <- string(all)
		})
		s, err := a.OpenStream(t.Context(), mesh.PeerID{2}, "/x/1")
		if err != nil {
			t.Fatal(err)
		}
		s.Write([]byte("one"))
		net.Partition([]mesh.PeerID{{1}}, []mesh.PeerID{{2}})
		s.Write([]byte("two"))
		net.Heal()
		time.Sleep(10 * time.Second)
		if _, err := s.Write([]byte("three")); err == nil {
			t.Error("the stream goes on after a loss")
		}
		if g := <-got; g != "one" {
			t.Errorf("arrived: %q", g)
		}
	})
}
