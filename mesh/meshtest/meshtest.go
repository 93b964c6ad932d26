// Package meshtest is the suite every Mesh passes: the one over TCP and the one
// in memory promise the same.
package meshtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// Fabric makes nodes on one network and can break it.
type Fabric interface {
	// Node joins a node; the i-th of a fabric.
	Node(t *testing.T) (mesh.Mesh, mesh.Peer)
	// Cut swallows everything between all nodes, silently; Heal ends that.
	Cut()
	Heal()
}

// Run runs the suite, each test on a fabric of its own.
func Run(t *testing.T, fabric func(t *testing.T) Fabric) {
	for name, test := range map[string]func(*testing.T, Fabric){
		"FramesArriveInOrder":        framesArriveInOrder,
		"StrangersGetNothing":        strangersGetNothing,
		"AFailedDialIsReportedOnce":  failedDial,
		"WithdrawnAdmissionCloses":   withdrawn,
		"BothDialAtOnce":             bothDial,
		"ASilentPeerIsNoticedOnUse":  silentPeer,
		"StreamsCarryBytesBothWays":  streams,
		"StreamsNoticeASilentPeer":   silentStream,
		"StrangersMayKnock":          strangersMayKnock,
		"AnIdleLinkIsSilent":         idle,
		"ItComesBackWhenDialled":     comesBack,
		"AnUndialablePeerCanBeHeard": undialable,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fabric(t))
		})
	}
}

// next waits for an event of a kind; others are an error.
func next(t *testing.T, m mesh.Mesh, kind mesh.Kind, within time.Duration) mesh.Event {
	t.Helper()
	select {
	case ev, ok := <-m.Events():
		if !ok {
			t.Fatal("the events ended")
		}
		if ev.Kind != kind {
			t.Fatalf("got %v (%v), want %v", ev.Kind, ev.Err, kind)
		}
		return ev
	case <-time.After(within):
		t.Fatalf("no %v within %v", kind, within)
	}
	return mesh.Event{}
}

func nothing(t *testing.T, m mesh.Mesh, d time.Duration) {
	t.Helper()
	select {
	case ev := <-m.Events():
		t.Fatalf("got %v (%v), want silence", ev.Kind, ev.Err)
	case <-time.After(d):
	}
}

func two(t *testing.T, f Fabric) (a, b mesh.Mesh, pa, pb mesh.Peer) {
	a, pa = f.Node(t)
	b, pb = f.Node(t)
	a.Admit([]mesh.Peer{pb})
	b.Admit([]mesh.Peer{pa})
	return a, b, pa, pb
}

func linked(t *testing.T, f Fabric) (a, b mesh.Mesh, pa, pb mesh.Peer) {
	t.Helper()
	a, b, pa, pb = two(t, f)
	a.Dial(pb.ID)
	if ev := next(t, a, mesh.LinkUp, 5*time.Second); ev.Peer != pb.ID || ev.Inbound {
		t.Fatalf("dialler got %+v", ev)
	}
	if ev := next(t, b, mesh.LinkUp, 5*time.Second); ev.Peer != pa.ID || !ev.Inbound {
		t.Fatalf("dialled got %+v", ev)
	}
	return a, b, pa, pb
}

func framesArriveInOrder(t *testing.T, f Fabric) {
	a, b, pa, pb := linked(t, f)
	const n = 200
	for i := range n {
		a.Send(mesh.Frame{Peer: pb.ID, Body: []byte(fmt.Sprint("u", i)), Quiet: i%3 == 0})
		b.Send(mesh.Frame{Peer: pa.ID, Class: mesh.Bulk, Body: bytes.Repeat([]byte{byte(i)}, 700)})
	}
	for i := range n {
		if ev := next(t, b, mesh.Received, 10*time.Second); string(ev.Body) != fmt.Sprint("u", i) || ev.Peer != pa.ID {
			t.Fatalf("got %q from %v, want u%d", ev.Body, ev.Peer, i)
		}
		if ev := next(t, a, mesh.Received, 10*time.Second); len(ev.Body) != 700 || ev.Body[0] != byte(i) {
			t.Fatalf("bulk frame %d is not what was sent", i)
		}
	}
	if s := a.Stats(pb.ID); s.In < n*700 || s.Out == 0 || !s.Linked || s.Heard.IsZero() {
		t.Errorf("stats %+v", s)
	}
}

func strangersGetNothing(t *testing.T, f Fabric) {
	a, pa := f.Node(t)
	b, pb := f.Node(t)
	a.Admit([]mesh.Peer{pb}) // b does not know a
	b.Handle("/secret/1", func(s mesh.Stream) { io.WriteString(s, "secret"); s.Close() })
	a.Dial(pb.ID)
	for { // a may believe for a moment that it is linked
		ev := <-a.Events()
		if ev.Kind == mesh.LinkDown {
			break
		}
		if ev.Kind == mesh.Received {
			t.Fatal("a stranger was told something")
		}
		a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("hello?")})
	}
	nothing(t, b, 50*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s, err := a.OpenStream(ctx, pb.ID, "/secret/1"); err == nil {
		if got, _ := io.ReadAll(s); len(got) != 0 {
			t.Errorf("a stranger read %q", got)
		}
	}
	if _, err := b.OpenStream(ctx, pa.ID, "/x/1"); !errors.Is(err, mesh.ErrUnknownPeer) {
		t.Errorf("opening a stream to a stranger: %v", err)
	}
}

func failedDial(t *testing.T, f Fabric) {
	a, _ := f.Node(t)
	a.Admit([]mesh.Peer{{ID: mesh.PeerID{9}}})
	a.Dial(mesh.PeerID{9})
	if ev := next(t, a, mesh.LinkDown, time.Second); !errors.Is(ev.Err, mesh.ErrNoAddress) {
		t.Errorf("got %v", ev.Err)
	}
	a.Send(mesh.Frame{Peer: mesh.PeerID{8}, Body: []byte("x")})
	if ev := next(t, a, mesh.LinkDown, time.Second); !errors.Is(ev.Err, mesh.ErrUnknownPeer) {
		t.Errorf("got %v", ev.Err)
	}
	nothing(t, a, 100*time.Millisecond)
}

func withdrawn(t *testing.T, f Fabric) {
	a, b, pa, _ := linked(t, f)
	b.Admit(nil)
	next(t, b, mesh.LinkDown, time.Second)
	next(t, a, mesh.LinkDown, 5*time.Second)
	b.Dial(pa.ID)
	if ev := next(t, b, mesh.LinkDown, time.Second); !errors.Is(ev.Err, mesh.ErrUnknownPeer) {
		t.Errorf("got %v", ev.Err)
	}
}

func bothDial(t *testing.T, f Fabric) {
	a, b, pa, pb := two(t, f)
	a.Dial(pb.ID)
	b.Dial(pa.ID)
	deadline := time.After(5 * time.Second)
	var upA, upB bool
	settle := time.NewTimer(time.Hour)
	for done := false; !done; {
		select {
		case ev := <-a.Events():
			upA = ev.Kind == mesh.LinkUp
		case ev := <-b.Events():
			upB = ev.Kind == mesh.LinkUp
		case <-settle.C:
			done = true
		case <-deadline:
			t.Fatal("they never agreed on a link")
		}
		if upA && upB {
			settle.Reset(300 * time.Millisecond)
		}
	}
	if !a.Stats(pb.ID).Linked || !b.Stats(pa.ID).Linked {
		t.Fatal("no link")
	}
	a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("one link")})
	next(t, b, mesh.Received, 5*time.Second)
}

func silentPeer(t *testing.T, f Fabric) {
	a, _, _, pb := linked(t, f)
	f.Cut()
	nothing(t, a, 300*time.Millisecond) // silence is no evidence
	start := time.Now()
	a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("are you there?")})
	next(t, a, mesh.LinkDown, 5*time.Second)
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("noticed after %v", d)
	}
	if s := a.Stats(pb.ID); s.Linked || s.Failed.IsZero() {
		t.Errorf("stats %+v", s)
	}
}

func streams(t *testing.T, f Fabric) {
	a, b, pa, pb := two(t, f)
	got := make(chan mesh.PeerID, 4)
	b.Handle("/echo/1", func(s mesh.Stream) {
		got <- s.Peer()
		io.Copy(s, s)
		s.Close()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for range 3 {
		s, err := a.OpenStream(ctx, pb.ID, "/echo/1")
		if err != nil {
			t.Fatal(err)
		}
		if s.Peer() != pb.ID {
			t.Errorf("stream to %v", s.Peer())
		}
		want := bytes.Repeat([]byte("sip "), 5000)
		go s.Write(want)
		have := make([]byte, len(want))
		if _, err := io.ReadFull(s, have); err != nil || !bytes.Equal(have, want) {
			t.Fatalf("echo: %v", err)
		}
		s.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if _, err := s.Read(have); err == nil {
			t.Error("a read passed its deadline")
		}
		s.Close()
		if id := <-got; id != pa.ID {
			t.Errorf("the other side saw %v", id)
		}
	}
	s, err := a.OpenStream(ctx, pb.ID, "/nobody/1")
	if err == nil {
		_, err = s.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("a protocol nobody serves was opened")
	}
}

func silentStream(t *testing.T, f Fabric) {
	a, b, _, pb := two(t, f)
	b.Handle("/echo/1", func(s mesh.Stream) { io.Copy(s, s); s.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := a.OpenStream(ctx, pb.ID, "/echo/1")
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("x"))
	io.ReadFull(s, make([]byte, 1))
	f.Cut()
	start := time.Now()
	s, err = a.OpenStream(ctx, pb.ID, "/echo/1")
	if err == nil {
		s.Write([]byte("x"))
		_, err = s.Read(make([]byte, 1))
	}
	if err == nil || time.Since(start) > 4*time.Second {
		t.Errorf("a dead signalling connection: %v after %v", err, time.Since(start))
	}
	f.Heal()
	s, err = a.OpenStream(ctx, pb.ID, "/echo/1")
	if err != nil {
		t.Fatalf("after the heal: %v", err)
	}
	s.Write([]byte("y"))
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		t.Errorf("after the heal: %v", err)
	}
}

func strangersMayKnock(t *testing.T, f Fabric) {
	a, _ := f.Node(t)
	b, pb := f.Node(t)
	a.Admit([]mesh.Peer{pb})
	b.HandleStrangers("/join/1", func(s mesh.Stream) { io.WriteString(s, "who are you?"); s.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := a.OpenStream(ctx, pb.ID, "/join/1")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(s); string(got) != "who are you?" {
		t.Errorf("got %q", got)
	}
}

func idle(t *testing.T, f Fabric) {
	a, b, _, pb := linked(t, f)
	a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("news")})
	next(t, b, mesh.Received, 5*time.Second)
	time.Sleep(600 * time.Millisecond) // the acknowledgement
	in, out := a.Total()
	time.Sleep(2 * time.Second)
	if in2, out2 := a.Total(); in2 != in || out2 != out {
		t.Errorf("an idle link carried %d bytes", in2-in+out2-out)
	}
}

func comesBack(t *testing.T, f Fabric) {
	a, b, pa, pb := linked(t, f)
	f.Cut()
	a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("lost")})
	next(t, a, mesh.LinkDown, 5*time.Second)
	a.Dial(pb.ID)
	next(t, a, mesh.LinkDown, 10*time.Second)
	f.Heal()
	a.Dial(pb.ID)
	next(t, a, mesh.LinkUp, 5*time.Second)
	for { // b may have noticed the old link's end, or not
		ev := <-b.Events()
		if ev.Kind == mesh.LinkUp {
			break
		}
	}
	b.Send(mesh.Frame{Peer: pa.ID, Body: []byte("welcome back")})
	if ev := next(t, a, mesh.Received, 5*time.Second); string(ev.Body) != "welcome back" {
		t.Errorf("got %q", ev.Body)
	}
}

func undialable(t *testing.T, f Fabric) {
	a, pa := f.Node(t)
	b, pb := f.Node(t)
	a.Admit([]mesh.Peer{pb})
	b.Admit([]mesh.Peer{{ID: pa.ID}}) // behind a router: no address
	a.Handle("/ring/1", func(s mesh.Stream) { io.WriteString(s, "ringing"); s.Close() })
	b.Handle("/up/1", func(s mesh.Stream) { io.Copy(s, s) })
	a.Dial(pb.ID)
	next(t, a, mesh.LinkUp, 5*time.Second)
	next(t, b, mesh.LinkUp, 5*time.Second)
	b.Send(mesh.Frame{Peer: pa.ID, Body: []byte("to you")})
	next(t, a, mesh.Received, 5*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	up, err := a.OpenStream(ctx, pb.ID, "/up/1")
	if err != nil {
		t.Fatal(err)
	}
	up.Write([]byte("u"))
	if _, err := io.ReadFull(up, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s, err := b.OpenStream(ctx, pa.ID, "/ring/1")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(s); string(got) != "ringing" {
		t.Errorf("got %q", got)
	}
}
