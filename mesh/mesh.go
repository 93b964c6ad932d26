// Package mesh carries frames and streams between the nodes of a fleet, and
// reads neither.
//
// Law: it says nothing by itself. No ping, no keep-alive, no gossip, no retry: an
// open link on which nothing is sent carries 0 bytes, and a peer that cannot be
// reached is reported, once, to whoever wanted it. Whether and when to try again
// is the business of whoever is owed something.
package mesh

import (
	"context"
	"encoding/base32"
	"errors"
	"net"
	"time"
)

// PeerID names a node: the first 16 bytes of SHA-256 of its Ed25519 public key,
// which the link proves.
type PeerID [16]byte

var text = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func (p PeerID) String() string { return text.EncodeToString(p[:]) }

// Class orders frames that wait for the same link.
type Class uint8

const (
	Urgent Class = iota // state: changes, configuration
	Bulk                // audio; gives way to everything else
)

// MaxFrame is the largest body a frame can have, in bytes.
const MaxFrame = 1 << 20

// Frame is opaque to the mesh. Frames of one class arrive in order or not at all.
type Frame struct {
	Peer  PeerID
	Class Class
	Body  []byte
	// Quiet frames need no acknowledgement of the mesh: the other side waits
	// for this very frame and will notice its absence.
	Quiet bool
}

// Kind of an Event.
type Kind uint8

const (
	LinkUp Kind = iota
	LinkDown
	Received
)

func (k Kind) String() string { return [...]string{"link up", "link down", "received"}[k] }

// Event reports a link coming, going or delivering. A LinkDown without a LinkUp
// before it says that a dial failed.
type Event struct {
	Kind    Kind
	Peer    PeerID
	Body    []byte // Received
	Err     error  // LinkDown
	Inbound bool   // LinkUp: the peer dialled us
}

// Peer is a node that may link with us, and where it is said to be.
type Peer struct {
	ID    PeerID
	Addrs []string // "ip:port", best first; none: it can only come to us
	Via   []PeerID // nodes that both can reach and that carry streams for others, tried when Addrs fail
}

// Stream is a byte stream to one peer, on a connection that frames do not use.
type Stream interface {
	net.Conn
	Peer() PeerID
}

// Stats are one peer's counters and evidence.
type Stats struct {
	In, Out   int64 // bytes on the wire above TCP, handshakes included
	Linked    bool
	Heard     time.Time // when anything came from it; zero: never
	Failed    time.Time // when an attempt failed; zero: not since it was reached
	Err       error     // why
	RoundTrip time.Duration
}

var (
	// ErrUnknownPeer: the peer was not admitted.
	ErrUnknownPeer = errors.New("not a member of the fleet as far as this node knows")
	// ErrNoAddress: nobody knows where to dial the peer.
	ErrNoAddress = errors.New("no address to dial it at")
	// ErrSilent: the peer was sent something and did not acknowledge it in time.
	ErrSilent = errors.New("no answer")
	// ErrRefused: the peer does not serve the protocol to us.
	ErrRefused = errors.New("the peer refused the stream")
	ErrClosed  = errors.New("the mesh is closed")
)

// Mesh is implemented by p2p for the real network and by memnet for tests; both
// pass the suite in meshtest.
type Mesh interface {
	// Send queues f and never blocks. Without a link f is dropped and the peer
	// is dialled; LinkUp or LinkDown follows. With one, f arrives, or LinkDown
	// follows within some seconds.
	Send(f Frame)

	// Dial opens a link if there is none: a need to talk. LinkUp or LinkDown follows.
	Dial(p PeerID)

	// Drop closes the link to p and says why.
	Drop(p PeerID, why error)

	// Admit replaces the set of peers that may link with us. Links of peers
	// that are not in it any more are closed at once.
	Admit(peers []Peer)

	// Events delivers in order; whoever reads it slowly slows the links down.
	// It is closed by Close.
	Events() <-chan Event

	// OpenStream opens a stream on the peer's signalling connection, dialling
	// one if there is none.
	OpenStream(ctx context.Context, p PeerID, protocol string) (Stream, error)

	// Handle serves streams of a protocol that admitted peers open; fn owns the
	// stream and runs on a goroutine of its own.
	Handle(protocol string, fn func(Stream))

	// HandleStrangers is Handle for peers that are not admitted, too: for
	// joining, and nothing else. Their number is bounded.
	HandleStrangers(protocol string, fn func(Stream))

	Stats(p PeerID) Stats
	Total() (in, out int64)
	Close() error
}
