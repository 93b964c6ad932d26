package disk

import "github.com/dgraph-io/badger/v4"

// Corrupt overwrites the stored bytes of key with others that have no good
// checksum.
func Corrupt(st Store, key, raw []byte) error {
	return st.(*badgerStore).db.Update(func(txn *badger.Txn) error { return txn.Set(key, raw) })
}

// Fail makes the store behave as after a failed fsync.
func Fail(st Store, err error) { st.(*badgerStore).failed = err }

// Commits is the number of transactions so far.
func Commits(st Store) uint64 { return st.(*badgerStore).mark.seq }
