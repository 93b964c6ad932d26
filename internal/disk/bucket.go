package disk

import (
	"bytes"
	"context"
	"fmt"
)

// A Bucket is a corner of a Store for small values of one kind: bindings, call
// records, settings of the box. Its keys do not meet those of other buckets.
type Bucket struct {
	store  Store
	prefix []byte
}

// NewBucket returns the bucket called name, which has no slash in it.
func NewBucket(s Store, name string) *Bucket {
	return &Bucket{s, []byte("l/" + name + "/")}
}

// Key is where the bucket keeps key in its store, for a Batch of one's own.
func (b *Bucket) Key(key string) []byte { return append(bytes.Clone(b.prefix), key...) }

// Put stores value and returns once it is on the medium.
func (b *Bucket) Put(ctx context.Context, key string, value []byte) error {
	var batch Batch
	batch.Put(b.Key(key), value)
	return b.commit(ctx, "put", key, &batch)
}

// Delete removes key and returns once that is on the medium.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	var batch Batch
	batch.Delete(b.Key(key))
	return b.commit(ctx, "delete", key, &batch)
}

func (b *Bucket) commit(ctx context.Context, verb, key string, batch *Batch) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := b.store.Commit(batch); err != nil {
		return fmt.Errorf("%s %s%s: %w", verb, b.prefix, key, err)
	}
	return nil
}

// Get returns the value of key, or an error matching ErrNotFound.
func (b *Bucket) Get(key string) (value []byte, err error) {
	err = b.store.View(func(r Reader) error {
		value, err = r.Get(b.Key(key))
		return err
	})
	return value, err
}

// Scan calls fn for every value in the order of keys; value is a copy.
func (b *Bucket) Scan(fn func(key string, value []byte) error) error {
	return b.ScanPrefix("", fn)
}

// ScanPrefix is Scan for the keys that begin with prefix.
func (b *Bucket) ScanPrefix(prefix string, fn func(key string, value []byte) error) error {
	return b.store.View(func(r Reader) error {
		return r.Scan(b.Key(prefix), func(k, v []byte) error {
			return fn(string(k[len(b.prefix):]), bytes.Clone(v))
		})
	})
}
