package blob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// Grace is how long a recording that nothing names stays here.
const Grace = 30 * 24 * time.Hour

// SweepEvery is how often to Sweep.
const SweepEvery = time.Hour

// CollectConfig is what a Collector needs; all of it is required.
type CollectConfig struct {
	Store *Store
	// Elapsed is how long this process has run, by a clock that nobody sets.
	Elapsed func() time.Duration
	// Named says whether an entry of a kind this program knows names a recording;
	// it is quick.
	Named func(site.BlobRef) bool
	// Merging nothing meanwhile, Mentions calls fn with what tells whether
	// anything at all that is live in any scope of this node mentions a recording.
	Mentions func(fn func(anywhere func(site.BlobRef) bool))
	// Owed says whether a recording is here for others who do not have it yet.
	Owed func(site.BlobRef) bool
	// Removed is called after recordings were removed.
	Removed func([]site.BlobRef)
}

// A Collector removes recordings that nothing names. One goes when for Grace
// neither a live entry named it, nor a recording under way is it, nor others
// wait for it. That time is counted while the node runs and looks, so a clock
// that is set, or a box that was off for months, makes nothing older; an account
// that is lost or damaged begins anew. One goroutine uses it.
type Collector struct {
	cfg     CollectConfig
	last    time.Duration
	unnamed map[site.BlobRef]time.Duration // how long each was seen so
	kept    map[site.BlobRef]time.Duration // what the account on the medium says
	damaged bool                           // it cannot be read
	unkept  time.Duration                  // counted since that was written
}

// keepEvery is what may have to be counted again after a crash.
const keepEvery = 6 * time.Hour

// NewCollector reads the account of before.
func NewCollector(cfg CollectConfig) *Collector {
	c := &Collector{cfg: cfg, last: cfg.Elapsed(), unnamed: map[site.BlobRef]time.Duration{}}
	b, err := os.ReadFile(c.file())
	if err == nil {
		c.unnamed, err = readAccount(b)
	}
	if err != nil {
		c.unnamed = map[site.BlobRef]time.Duration{}
		if !errors.Is(err, fs.ErrNotExist) {
			c.damaged = true
			cfg.Store.opts.Log.Warn("How long recordings were of no use is counted anew", "err", err)
		}
	}
	c.kept = maps.Clone(c.unnamed)
	return c
}

func (c *Collector) file() string { return filepath.Join(c.cfg.Store.opts.Dir, "unnamed") }

// Sweep counts the time since the last one and removes what is over it. It
// returns how many recordings it removed.
func (c *Collector) Sweep() (removed int, err error) {
	s := c.cfg.Store
	now := c.cfg.Elapsed()
	step := min(max(now-c.last, 0), 2*SweepEvery) // a machine that slept has not looked
	c.last = now
	here := s.List()
	// Whoever writes an entry unpins after it: what is not pinned now and not
	// named afterwards was named by nobody in between.
	pinned, err := s.pinned()
	if err != nil {
		return 0, fmt.Errorf("look for recordings under way: %w", err)
	}
	var gone, over []site.BlobRef
	seen := map[site.BlobRef]time.Duration{}
	for _, ref := range here {
		if pinned[ref] || c.cfg.Named(ref) || c.cfg.Owed(ref) {
			continue
		}
		t, counted := c.unnamed[ref]
		if counted {
			t = min(t+step, Grace)
		}
		if seen[ref] = t; t == Grace {
			over = append(over, ref)
		}
	}
	if len(over) > 0 {
		c.cfg.Mentions(func(anywhere func(site.BlobRef) bool) {
			for _, ref := range over {
				if anywhere(ref) {
					delete(seen, ref) // counted from the start again
				} else if e := s.Delete(ref); e != nil {
					err = errors.Join(err, e)
				} else {
					gone = append(gone, ref)
					delete(seen, ref)
				}
			}
		})
	}
	c.unnamed = seen
	c.unkept += step
	cancelled := c.damaged
	for ref := range c.kept {
		if _, still := seen[ref]; !still { // what the medium says of it must not come back
			cancelled = true
		}
	}
	if cancelled || len(seen) > 0 && c.unkept >= keepEvery {
		if e := c.write(); e != nil {
			err = errors.Join(err, e)
		} else {
			c.unkept, c.kept, c.damaged = 0, maps.Clone(seen), false
		}
	}
	if len(gone) > 0 {
		s.opts.Log.Info("Recordings that nothing named for long were removed", "recordings", len(gone))
		c.cfg.Removed(gone)
	}
	return len(gone), err
}

// Unnamed is how many recordings here nothing names, as of the last Sweep.
func (c *Collector) Unnamed() int { return len(c.unnamed) }

// The account: [name 32][milliseconds 8] for each, then a CRC-32C over it all.
const accountLine = len(site.BlobRef{}) + 8

func (c *Collector) write() error {
	var b bytes.Buffer
	for ref, d := range c.unnamed {
		b.Write(ref[:])
		b.Write(binary.BigEndian.AppendUint64(nil, uint64(d.Milliseconds())))
	}
	b.Write(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b.Bytes(), castagnoli)))
	tmp := filepath.Join(c.cfg.Store.tmp(), "unnamed")
	err := writeSync(tmp, b.Bytes())
	if err == nil {
		err = os.Rename(tmp, c.file())
	}
	if err == nil {
		err = syncDir(c.cfg.Store.opts.Dir)
	}
	if err != nil {
		return fmt.Errorf("keep how long recordings are of no use: %w", err)
	}
	return nil
}

// readAccount takes whatever the file holds.
func readAccount(b []byte) (map[site.BlobRef]time.Duration, error) {
	n := len(b) - 4
	if n < 0 || n%accountLine != 0 || crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, fmt.Errorf("%d bytes that are no account of recordings: %w", len(b), ErrDamaged)
	}
	out := map[site.BlobRef]time.Duration{}
	for b = b[:n]; len(b) > 0; b = b[accountLine:] {
		ms := binary.BigEndian.Uint64(b[len(site.BlobRef{}):])
		if ms > uint64(Grace.Milliseconds()) {
			return nil, fmt.Errorf("a time of %d ms: %w", ms, ErrDamaged)
		}
		out[site.BlobRef(b[:len(site.BlobRef{})])] = time.Duration(ms) * time.Millisecond
	}
	return out, nil
}

// pinned are the blobs of recordings that are not Done: no entry names them yet.
func (s *Store) pinned() (map[site.BlobRef]bool, error) {
	entries, err := os.ReadDir(s.tmp())
	if err != nil {
		return nil, err
	}
	out := map[site.BlobRef]bool{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".ref") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.tmp(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is done
		}
		if err != nil {
			return nil, err
		}
		var ref site.BlobRef
		if copy(ref[:], b) == len(ref) {
			out[ref] = true
		}
	}
	return out, nil
}
