package node

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/b2bua"
)

func newBytes(b []byte) io.Reader { return bytes.NewReader(b) }

// records keeps what became of calls: on disk from the answer on, so that a
// node that dies leaves the start. Writing waits for nobody's call.
type records struct {
	disk *disk.Bucket
	now  func() time.Time
	log  *slog.Logger
	used *meter // over the trunks
	told func(rec b2bua.Record, over bool)

	mu   sync.Mutex
	open map[string]bool // calls in progress, by key
	last []b2bua.Record  // ended since the start; newest last
	work chan entry
	done chan struct{}
}

type entry struct {
	key   string
	value []byte
}

const (
	keepLast    = 500                 // in memory, should the disk refuse
	keepRecords = 90 * 24 * time.Hour // on disk
	mostRecords = 20_000
	pruneEvery  = 1000               // records between two looks at what is too old
	longestCall = 7 * 24 * time.Hour // a call that ended lately began within this
)

// times in records keep their fractions of a second.
var recordMode = func() cbor.EncMode {
	m, err := cbor.EncOptions{Time: cbor.TimeRFC3339Nano}.EncMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}()

// and names as telephones gave them, UTF-8 or not.
var recordDecode = func() cbor.DecMode {
	m, err := cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

func newRecords(d *disk.Bucket, now func() time.Time, zone func() *time.Location, log *slog.Logger) *records {
	r := &records{disk: d, now: now, log: log, used: newMeter(now, zone), open: map[string]bool{}, work: make(chan entry, 1024), done: make(chan struct{})}
	r.recall()
	go r.write() // ends with close
	return r
}

func (r *records) write() {
	defer close(r.done)
	for count := 0; ; count++ {
		e, ok := <-r.work
		if !ok {
			return
		}
		if err := r.disk.Put(context.Background(), e.key, e.value); err != nil {
			r.log.Warn("A call record is in memory only", "err", err)
		}
		if count%pruneEvery == 0 {
			if err := r.prune(); err != nil {
				r.log.Warn("Old call records stay", "err", err)
			}
		}
	}
}

func (r *records) close() {
	close(r.work)
	<-r.done
}

// recordKey sorts by the beginning.
func recordKey(rec b2bua.Record) string {
	return fmt.Sprintf("%020d/%s", rec.Began.UnixMilli(), rec.Chain)
}

func beganOf(key string) time.Time {
	at, _, _ := strings.Cut(key, "/")
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// prune deletes what is too old or too much.
func (r *records) prune() error {
	var keys []string
	if err := r.disk.Scan(func(key string, _ []byte) error { keys = append(keys, key); return nil }); err != nil {
		return err
	}
	gone := max(0, len(keys)-mostRecords)
	for gone < len(keys) && r.now().Sub(beganOf(keys[gone])) > keepRecords {
		gone++
	}
	for _, k := range keys[:gone] {
		if err := r.disk.Delete(context.Background(), k); err != nil {
			return err
		}
	}
	return nil
}

// Start implements b2bua.Records.
func (r *records) Start(rec b2bua.Record) {
	r.mu.Lock()
	r.open[recordKey(rec)] = true
	r.mu.Unlock()
	r.used.start(recordKey(rec), rec)
	r.keep(rec)
	if r.told != nil {
		r.told(rec, false)
	}
}

// recall counts what was spoken today before this start.
func (r *records) recall() {
	from := r.now().Add(-longestCall)
	err := r.disk.Scan(func(key string, value []byte) error {
		if beganOf(key).Before(from) {
			return nil
		}
		var rec b2bua.Record
		if err := recordDecode.Unmarshal(value, &rec); err == nil && !rec.End.IsZero() {
			r.used.end(key, rec)
		}
		return nil
	})
	if err != nil {
		r.log.Warn("Minutes of today are counted from now on", "err", err)
	}
}

// today is how long calls out talked over a trunk since midnight.
func (r *records) today(trunk string) time.Duration { return r.used.today(trunk) }

// End implements b2bua.Records.
func (r *records) End(rec b2bua.Record) {
	r.keep(rec)
	r.used.end(recordKey(rec), rec)
	if r.told != nil {
		r.told(rec, true)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, recordKey(rec))
	if len(r.last) >= keepLast {
		r.last = slices.Delete(r.last, 0, len(r.last)-keepLast+1)
	}
	r.last = append(r.last, rec)
}

func (r *records) keep(rec b2bua.Record) {
	b, err := recordMode.Marshal(rec)
	if err != nil {
		r.log.Error("A call record cannot be encoded", "err", err)
		return
	}
	select {
	case r.work <- entry{recordKey(rec), b}:
	default:
		r.log.Warn("A call record is in memory only: the disk is far behind")
	}
}

// since lists what ended in the last d, oldest first. A call whose node died
// has no end; its cause says so.
func (r *records) since(d time.Duration) (out []b2bua.Record, err error) {
	if d <= 0 {
		return nil, nil
	}
	from := r.now().Add(-d)
	r.mu.Lock()
	open := make(map[string]bool, len(r.open))
	for k := range r.open {
		open[k] = true
	}
	seen := map[string]bool{}
	for _, rec := range r.last {
		if rec.End.After(from) {
			seen[recordKey(rec)] = true
			out = append(out, rec)
		}
	}
	r.mu.Unlock()
	err = r.disk.Scan(func(key string, value []byte) error {
		if open[key] || seen[key] || beganOf(key).Before(from.Add(-longestCall)) {
			return nil
		}
		var rec b2bua.Record
		if err := recordDecode.Unmarshal(value, &rec); err != nil {
			r.log.Warn("A call record cannot be read", "key", key, "err", err)
			return nil
		}
		if rec.End.IsZero() {
			rec.Cause = site.NodeLost
		}
		if rec.End.After(from) || (rec.End.IsZero() && rec.Start.After(from)) {
			out = append(out, rec)
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b b2bua.Record) int { return cmp.Compare(a.Began.UnixNano(), b.Began.UnixNano()) })
	return out, err
}
