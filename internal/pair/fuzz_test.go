package pair

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
)

// FuzzHear: whatever the pair's stream carries, the table neither panics nor
// takes a binding that is not the sender's, and the stream ends.
func FuzzHear(f *testing.F) {
	frame := func(it item) []byte {
		b, err := cbor.Marshal(it)
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	}
	b := site.Binding{AOR: ana, Contact: "sip:ana@192.0.2.7", Node: site.NodeID{2}}
	f.Add(frame(item{Put: &b}))
	f.Add(frame(item{Drop: b.Key()}))
	f.Add(append(frame(item{All: &[]site.Binding{b}}), frame(item{All: &[]site.Binding{}})...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		tab, err := Open(Config{Self: site.NodeID{1}, Disk: newMem(), MaxExpiry: time.Minute, Now: time.Now,
			Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer tab.Close()
		x, y := net.Pipe()
		go func() {
			go io.Copy(io.Discard, x)
			x.Write(in)
			x.Close()
		}()
		if err := tab.Hear(site.NodeID{2}, y); err == nil {
			t.Fatal("a stream ended without an end")
		}
		for _, e := range tab.byKey {
			if e.b.Node != (site.NodeID{2}) {
				t.Fatalf("took a binding of %v", e.b.Node)
			}
		}
	})
}
