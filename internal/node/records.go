package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/sipcore/b2bua"
)

func newBytes(b []byte) io.Reader { return bytes.NewReader(b) }

// records keeps what became of calls: on disk from the answer on, so that a
// node that dies leaves the start. Writing waits for nobody's call.
type records struct {
	disk *disk.Bucket
	now  func() time.Time
	log  *slog.Logger

	mu   sync.Mutex
	last []b2bua.Record // newest last
	work chan entry
	done chan struct{}
}

type entry struct {
	key   string
	value []byte
}

const keepLast = 500

func newRecords(d *disk.Bucket, now func() time.Time, log *slog.Logger) *records {
	r := &records{disk: d, now: now, log: log, work: make(chan entry, 1024), done: make(chan struct{})}
	go func() { // ends with close
		defer close(r.done)
		for e := range r.work {
			if err := r.disk.Put(context.Background(), e.key, e.value); err != nil {
				r.log.Warn("A call record is in memory only", "err", err)
			}
		}
	}()
	return r
}

func (r *records) close() {
	close(r.work)
	<-r.done
}

// Start implements b2bua.Records.
func (r *records) Start(rec b2bua.Record) { r.keep(rec) }

// End implements b2bua.Records.
func (r *records) End(rec b2bua.Record) {
	r.keep(rec)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.last) >= keepLast {
		r.last = slices.Delete(r.last, 0, len(r.last)-keepLast+1)
	}
	r.last = append(r.last, rec)
}

func (r *records) keep(rec b2bua.Record) {
	b, err := cbor.Marshal(rec)
	if err != nil {
		r.log.Error("A call record cannot be encoded", "err", err)
		return
	}
	key := fmt.Sprintf("%020d/%s", rec.Began.UnixMilli(), rec.Chain)
	select {
	case r.work <- entry{key, b}:
	default:
		r.log.Warn("A call record is in memory only: the disk is far behind")
	}
}

// since lists ended calls of the last d.
func (r *records) since(d time.Duration) (out []b2bua.Record) {
	from := r.now().Add(-d)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.last {
		if rec.End.After(from) {
			out = append(out, rec)
		}
	}
	return out
}
