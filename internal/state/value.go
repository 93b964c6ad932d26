package state

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"github.com/fxamacker/cbor/v2"
)

// Values: texts are their UTF-8, truths one byte, numbers unsigned varints,
// everything else deterministic CBOR. A value of a wrong form reads as absent:
// it came from a newer version or from a broken one, never from a panic.

var (
	encMode = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
	decMode = func() cbor.DecMode {
		m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
			MaxArrayElements: 1024, MaxMapPairs: 256, MaxNestedLevels: 8, ExtraReturnErrors: cbor.ExtraDecErrorNone}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
)

func marshal(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("state: encode %T: %v", v, err)) // plain fields cannot fail
	}
	return b
}

func unmarshal(b []byte, v any) bool { return decMode.Unmarshal(b, v) == nil }

func boolValue(v bool) []byte {
	if v {
		return []byte{1}
	}
	return []byte{0}
}

func isTrue(b []byte) bool { return len(b) > 0 && b[0] == 1 }

func intValue(n int) []byte { return binary.AppendUvarint(nil, uint64(max(n, 0))) }

func toInt(b []byte) int {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > 1<<31 {
		return 0
	}
	return int(n)
}

// A deletedValue is a truth and, for a delete, what it saw: per actor the newest
// stamp in the record. Newer cells are shown as edits the delete did not see.
func deletedValue(saw crdt.Context) []byte {
	ds := make([][2]uint64, len(saw))
	for i, d := range saw {
		ds[i] = [2]uint64{uint64(d.Actor), uint64(d.Stamp)}
	}
	return append([]byte{1}, marshal(ds)...)
}

func sawOf(value []byte) (saw crdt.Context) {
	var ds [][2]uint64
	if !isTrue(value) || !unmarshal(value[1:], &ds) {
		return nil
	}
	for _, d := range ds {
		saw = saw.With(crdt.Dot{Actor: crdt.ActorID(d[0]), Stamp: crdt.Stamp(d[1])})
	}
	return saw
}

// A reader reads one record of a set.
type reader struct {
	set   *crdt.Set
	table uint16
	rec   string
}

func (r reader) versions(f string) []crdt.Version {
	return r.set.Versions(crdt.Cell{Table: r.table, Record: r.rec, Field: f})
}

// latest returns the value in force under the policy "latest".
func (r reader) latest(f string) (crdt.Version, bool) {
	v, _, ok := crdt.Latest(r.versions(f))
	return v, ok
}

func (r reader) bytes(f string) []byte {
	v, _ := r.latest(f)
	return v.Value
}

func (r reader) text(f string) string { return string(bytes.ToValidUTF8(r.bytes(f), []byte("\uFFFD"))) }
func (r reader) truth(f string) bool  { return isTrue(r.bytes(f)) }
func (r reader) anyTrue(f string) bool {
	return crdt.AnyTrue(r.versions(f), isTrue)
}
func (r reader) number(f string) int { return toInt(r.bytes(f)) }

func (r reader) final() bool {
	_, ok := r.set.Final(r.table, r.rec)
	return ok
}

// by is who changed the record last; of one that is no more, the system.
func (r reader) by() crdt.Ref {
	var last crdt.Version
	for _, f := range r.set.Fields(r.table, r.rec) {
		for _, v := range r.versions(f) {
			if v.Stamp > last.Stamp {
				last = v
			}
		}
	}
	if last.By == (crdt.Ref{}) {
		last.By, _ = byRef("system")
	}
	return last.By
}

// seen is the newest stamp per actor in the record: what a delete saw.
func (r reader) seen() (saw crdt.Context) {
	for _, f := range r.set.Fields(r.table, r.rec) {
		for _, v := range r.versions(f) {
			saw = saw.With(v.Dot)
		}
	}
	return saw
}
