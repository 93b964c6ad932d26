package crdt

// A Quota bounds what one node can make others keep, so that a member that is
// broken or was taken over does not fill their disks. It is far above what an
// honest node needs: one that imports 300,000 users writes 216 MB, of which
// 121 MB and 600,000 changes are in one scope.
//
// The limits on what is live count per author and scope. Changes that the author
// itself brings count against them as they are. What others bring was taken by
// somebody who had room, so it may be Relayed times as much: honest nodes stay
// equal, however an author spreads its changes over them.
type Quota struct {
	Changes int   // live
	Bytes   int64 // of live changes
	Burst   int64 // bytes that an author may bring at once, in all scopes
	Hourly  int64 // bytes of Burst that it is given back in an hour
}

// Relayed is how many times the quota may come through others than the author.
const Relayed = 4

// DefaultQuota is what one node may have others keep.
func DefaultQuota() Quota {
	return Quota{Changes: 2_000_000, Bytes: 1 << 30, Burst: 512 << 20, Hourly: 16 << 20}
}

// A Share is what a node has of something.
type Share struct {
	Changes int
	Bytes   int64
}

// Add counts one change; Remove takes one away.
func (s *Share) Add(bytes int)    { s.Changes, s.Bytes = s.Changes+1, s.Bytes+int64(bytes) }
func (s *Share) Remove(bytes int) { s.Changes, s.Bytes = s.Changes-1, s.Bytes-int64(bytes) }

// Over says whether a change of that many bytes is too much for who has s of a
// scope live, times times the quota.
func (q Quota) Over(s Share, bytes, times int) bool {
	return s.Changes+1 > q.Changes*times || s.Bytes+int64(bytes) > q.Bytes*int64(times)
}

// A Bucket is how many bytes a node may still bring. The zero Bucket is full.
type Bucket struct {
	spent int64
	at    int64 // ms, when spent was true
}

// Spent is how much of Burst is used at a moment in ms.
func (b *Bucket) Spent(q Quota, now int64) int64 {
	if b.spent == 0 || now < b.at { // a clock that went back gives nothing, and takes nothing
		return b.spent
	}
	// In floating point, so that a year does not overflow.
	return max(b.spent-int64(float64(now-b.at)/3_600_000*float64(q.Hourly)), 0)
}

// Has says whether that many bytes are left.
func (b *Bucket) Has(q Quota, now int64, bytes int) bool {
	return b.Spent(q, now)+int64(bytes) <= q.Burst
}

// Take uses that many bytes.
func (b *Bucket) Take(q Quota, now int64, bytes int) {
	b.spent, b.at = b.Spent(q, now)+int64(bytes), max(now, b.at)
}
