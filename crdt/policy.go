package crdt

import "bytes"

// The policies read one value out of the versions of a cell (state.md §4). They
// are chosen per field, in code, by whoever knows the schema.

// Latest is the version with the greatest (stamp, id); others are the versions
// of a different value, newest first.
func Latest(vs []Version) (inForce Version, others []Version, ok bool) {
	if len(vs) == 0 {
		return inForce, nil, false
	}
	inForce = newest(vs)
	for i := len(vs) - 1; i >= 0; i-- {
		if !bytes.Equal(vs[i].Value, inForce.Value) {
			others = append(others, vs[i])
		}
	}
	return inForce, others, true
}

func newest(vs []Version) Version {
	n := vs[0]
	for _, v := range vs[1:] {
		if CompareVersions(n, v) < 0 {
			n = v
		}
	}
	return n
}

// LatestReset is Latest, but versions flagged as a security reset count alone.
func LatestReset(vs []Version) (inForce Version, others []Version, ok bool) {
	if r := resets(vs); len(r) > 0 {
		vs = r
	}
	return Latest(vs)
}

// AnyTrue is the policy "true": true if any version says so.
func AnyTrue(vs []Version, isTrue func(value []byte) bool) bool {
	for _, v := range vs {
		if isTrue(v.Value) {
			return true
		}
	}
	return false
}

// Kept is the policy of a voicemail's folder: any value other than trash beats
// trash; among the others the latest.
func Kept(vs []Version, trash []byte) (inForce Version, ok bool) {
	var kept []Version
	for _, v := range vs {
		if !bytes.Equal(v.Value, trash) {
			kept = append(kept, v)
		}
	}
	if len(kept) == 0 {
		kept = vs
	}
	inForce, _, ok = Latest(kept)
	return inForce, ok
}

// Max is the greatest number among the versions.
func Max(vs []Version, number func(value []byte) uint64) (n uint64) {
	for _, v := range vs {
		n = max(n, number(v.Value))
	}
	return n
}

// Each is the policy of device passwords: every version is accepted, newest
// first, until one was chosen; one flagged as a security reset alone.
func Each(vs []Version) []Version {
	if r := resets(vs); len(r) > 0 {
		vs = r
	}
	out := make([]Version, 0, len(vs))
	for i := len(vs) - 1; i >= 0; i-- {
		out = append(out, vs[i])
	}
	return out
}

func resets(vs []Version) (out []Version) {
	for _, v := range vs {
		if v.Flags&Reset != 0 {
			out = append(out, v)
		}
	}
	return out
}
