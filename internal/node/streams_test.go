package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/p2p"
	"carrierclass.net/ccnode/mesh/pairing"
)

// from is a stream of a peer.
type from struct {
	net.Conn
	peer mesh.PeerID
}

func (f from) Peer() mesh.PeerID { return f.peer }

// FuzzStreams: whatever a stranger sends who wants to join, or a member that
// asks about a mailbox or a telephone, the answer comes to its end, and nobody
// is admitted or known by it.
func FuzzStreams(f *testing.F) {
	b := newBox(f, "a").up("")
	b.user("201", "Ana")
	pub := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)).Public().(ed25519.PublicKey)
	joins := func(h joinHello, p joinProof) []byte {
		h.Key, h.Seal, h.Name = pub, make([]byte, 32), "shop"
		x, err := cbor.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		y, err := cbor.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		return append(x, y...)
	}
	commit := pairing.Commit(pairing.Key(pub), pairing.Key(b.n.id.Public()), pairing.Nonce{1})
	f.Add(byte(0), joins(joinHello{Nonce: make([]byte, 16)}, joinProof{Claim: []byte{0xa0}, Proof: []byte{1}}))
	f.Add(byte(0), joins(joinHello{Commit: commit[:]}, joinProof{Nonce: append([]byte{1}, make([]byte, 15)...)}))
	for i, q := range []any{mailboxQuery{Op: "list"}, mailboxQuery{Op: "move", Folder: "old", By: "x"}, mailboxQuery{Op: "audio"},
		visitQuery{AOR: "0001201", Method: "REGISTER", Username: "201", Realm: "shops.example", Nonce: "n", URI: "sip:x", Response: "r", Algorithm: "MD5", QOP: "auth", NC: "00000001"}} {
		text, err := json.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(1+i/3), text)
	}
	members := len(b.n.book.Standings())
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		if kind%3 == 2 {
			var q visitQuery
			if json.NewDecoder(io.LimitReader(bytes.NewReader(in), maxVisitMessage)).Decode(&q) != nil {
				return
			}
			at := sha256.Sum256(in) // another site each time, or all would wait for wrong guesses
			if a := b.n.answerVisit(site.ID(at[:len(site.ID{})]), q); a.Known {
				t.Fatalf("%+v is known", q)
			}
			return
		}
		x, y := net.Pipe()
		go io.Copy(io.Discard, y) // end with y
		go func() {
			y.Write(in)
			y.Close()
		}()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if kind%3 == 0 {
				b.n.serveJoin(from{x, p2p.PeerID(pub)})
			} else {
				b.n.serveRemote(from{x, p2p.PeerID(pub)})
			}
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%x is served without an end", in)
		}
		if now := len(b.n.book.Standings()); now != members {
			t.Fatalf("%d members, there were %d", now, members)
		}
	})
}
