package replica

import (
	"encoding/binary"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
)

// Keys on disk. Numbers are big endian, so that Scan gives them in order.
//
//	c/<id>              a change, as received
//	a/<scope><n>        arrival index: id, and the peer it came from
//	f/<scope>           LtHash of the ids stored under c/, last arrival number
//	e/<scope>           epochs: [epoch, first n] …
//	p/<peer><scope>     cursors with a peer
//	held/<id>           a change not (yet) taken
//	drop/<id>           a held change that a person dropped: who, when, why
//	o/<id>              outbox: a change of a scope not held here
//	h/<cell><stamp>…    displaced versions
//	r/<id>              while mending: what a change was written again as
//	s/…                 the engine's own settings
//
// Where something follows a name, the name is preceded by its length.
var (
	keyActor   = []byte("s/actor")
	keyClock   = []byte("s/clock")
	keyMemory  = []byte("s/memory") // since when history is complete, ms
	keyWrong   = []byte("s/wrong")  // what time it was while the clock was ahead
	keyMending = []byte("s/mend")   // there while what was written under a wrong time is written again
	keyDoubt   = []byte("s/doubt")  // there while a neighbour is still to be asked what the disk lost
	keyMachine = []byte("s/machine")
	keyNode    = []byte("s/node")
)

const prefixAgain = "r/"

func keyChange(id crdt.ID) []byte  { return append([]byte("c/"), id[:]...) }
func keyHeld(id crdt.ID) []byte    { return append([]byte("held/"), id[:]...) }
func keyOutbox(id crdt.ID) []byte  { return append([]byte("o/"), id[:]...) }
func keyHash(s crdt.Scope) []byte  { return append([]byte("f/"), s...) }
func keyEpoch(s crdt.Scope) []byte { return append([]byte("e/"), s...) }

func keyArrivals(s crdt.Scope) []byte {
	return append(append([]byte("a/"), byte(len(s))), s...)
}

func keyArrival(s crdt.Scope, n uint64) []byte {
	return binary.BigEndian.AppendUint64(keyArrivals(s), n)
}

// parseArrival splits a key that begins with "a/".
func parseArrival(key []byte) (s crdt.Scope, n uint64, ok bool) {
	key = key[2:]
	if len(key) == 0 || len(key) != 1+int(key[0])+8 {
		return "", 0, false
	}
	end := 1 + int(key[0])
	return crdt.Scope(key[1:end]), binary.BigEndian.Uint64(key[end:]), true
}

func keyPeer(peer Peer, s crdt.Scope) []byte {
	return append(append([]byte("p/"), peer[:]...), s...)
}

func parsePeer(key []byte) (peer Peer, s crdt.Scope, ok bool) {
	key = key[2:]
	if len(key) <= len(peer) {
		return peer, "", false
	}
	copy(peer[:], key)
	return peer, crdt.Scope(key[len(peer):]), true
}

// keyRecord begins the keys of a record's history.
func keyRecord(c crdt.Cell) []byte {
	key := []byte("h/")
	for _, s := range []string{string(c.Scope), c.Record} {
		key = append(append(key, byte(len(s))), s...)
	}
	return key
}

func keyHistory(c crdt.Cell) []byte {
	key := append(append(keyRecord(c), byte(len(c.Field))), c.Field...)
	return binary.BigEndian.AppendUint16(key, c.Table)
}

func keyDisplaced(c crdt.Cell, s crdt.Stamp, id crdt.ID) []byte {
	return append(binary.BigEndian.AppendUint64(keyHistory(c), uint64(s)), id[:8]...)
}

var encoding = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// encode is for our own types, which always encode.
func encode(v any) []byte {
	b, err := encoding.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
