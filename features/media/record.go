package media

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"carrierclass.net/ccnode/features"
)

// How loud a frame is when it is speech: the mean of its samples' amounts.
// 200 of 32768 is about −44 dBFS; line noise is below, a whisper above.
const loud = 200

// recorder lays packets on a time line.
type recorder struct {
	w       io.Writer
	limit   int64 // samples
	quiet   int64 // samples, 0: never stop for silence
	began   time.Time
	pos     int64 // samples written
	next    uint32
	ssrc    uint32
	started bool
	lastAt  time.Time // when the last packet came
	silent  int64     // samples since anything was heard
	sum     int64     // of the frame being measured
	in      int
	out     []byte
	pcm     []int16
	err     error
}

// Record copies what the other end says into w as 16-bit little-endian PCM,
// 8 kHz, and places it by the RTP timestamps, so that loss and pauses keep
// their length. See features.Media; the end of ctx is the ordinary end of a
// recording and no error.
func (s *Session) Record(ctx context.Context, w io.Writer, limit, quiet time.Duration) (features.Recorded, error) {
	now := s.p.e.cfg.Now()
	r := &recorder{w: w, limit: samples(limit), quiet: samples(quiet), began: now, lastAt: now}
	j := newJitter(now)
	s.rec.Store(j)
	defer s.rec.Store(nil)
	// Twelve wakes a second are enough: nobody listens to this in real time.
	ticker := time.NewTicker(80 * time.Millisecond)
	defer ticker.Stop()
	stopped := ""
	for stopped == "" {
		if s.waiting() {
			stopped = "digit"
			break
		}
		select {
		case <-ctx.Done():
			stopped = "hangup"
		case <-s.done:
			stopped = "hangup"
		case <-s.keyed:
		case <-ticker.C:
			now = s.p.e.cfg.Now()
			r.turn(j, now, false)
			if now.Sub(s.sent) > time.Second { // keeps NATs and the phone's own watch content
				s.resume(now)
				clear(s.pcm[:])
				if f := s.p.flow.Load(); f != nil && f.law != noLaw {
					s.say(f, true)
				}
			}
			stopped = r.over()
		}
	}
	if stopped != "error" {
		r.turn(j, s.p.e.cfg.Now(), true)
	}
	rec := features.Recorded{Duration: time.Duration(r.pos) * time.Second / Rate, Stopped: stopped}
	if r.err != nil {
		rec.Stopped = "error"
		return rec, fmt.Errorf("record: %w", r.err)
	}
	return rec, nil
}

func samples(d time.Duration) int64 { return int64(d) * Rate / int64(time.Second) }

func (r *recorder) over() string {
	switch {
	case r.err != nil:
		return "error"
	case r.pos >= r.limit:
		return "limit"
	case r.quiet > 0 && r.silent >= r.quiet:
		return "silence"
	}
	return ""
}

// turn takes what is due and writes it.
func (r *recorder) turn(j *jitter, now time.Time, flush bool) {
	j.pop(now, flush, r.take)
	wall := samples(now.Sub(r.began))
	const patience = Rate * 3 / 10
	switch {
	case flush:
		if wall-r.pos > Rate/10 {
			r.fill(wall - r.pos)
		}
	case now.Sub(r.lastAt) > 300*time.Millisecond && wall-r.pos > patience:
		r.fill(wall - r.pos - patience/2) // nothing comes: a pause, or a dead line
	}
	r.flush()
}

// take writes v if it follows, or if it is due.
func (r *recorder) take(v *voice, due bool) bool {
	wall := samples(v.at.Sub(r.began))
	n := int64(len(v.data))
	if !r.started || v.ssrc != r.ssrc {
		r.rebase(v, wall-n)
	}
	gap := int64(int32(v.ts - r.next)) // #nosec G115: serial number arithmetic
	if r.pos+gap > wall+Rate || gap < -2*Rate {
		r.rebase(v, wall-n) // another time line, not a loss
		gap = 0
	}
	if gap > 0 && !due {
		return false
	}
	if gap > 0 {
		r.fill(gap)
	}
	r.lastAt = v.at
	if gap < 0 { // late: its place is taken, perhaps not all of it
		if -gap >= n {
			return true
		}
		v.data = v.data[-gap:]
	}
	r.speech(v)
	return true
}

// rebase starts a new time line at the wall clock.
func (r *recorder) rebase(v *voice, wall int64) {
	if wall-r.pos > 3*frame {
		r.fill(wall - r.pos)
	}
	r.ssrc, r.next, r.started = v.ssrc, v.ts, true
}

func (r *recorder) speech(v *voice) {
	n := len(v.data)
	if cap(r.pcm) < n {
		r.pcm = make([]int16, n)
	}
	r.pcm = r.pcm[:n]
	v.law.decode(r.pcm, v.data)
	r.next += uint32(n) // #nosec G115: at most a packet
	r.put(r.pcm)
}

// fill writes silence.
func (r *recorder) fill(n int64) {
	var none [frame]int16
	r.next += uint32(n) // #nosec G115: bounded by the wall clock
	for n > 0 && r.pos < r.limit && r.err == nil {
		m := min(n, frame)
		r.put(none[:m])
		n -= m
	}
}

func (r *recorder) put(pcm []int16) {
	if left := r.limit - r.pos; int64(len(pcm)) > left {
		pcm = pcm[:left]
	}
	for _, s := range pcm {
		r.out = binary.LittleEndian.AppendUint16(r.out, uint16(s)) // #nosec G115: the same bits
		r.sum += int64(abs(int(s)))
		if r.in++; r.in == frame {
			if r.sum/frame >= loud {
				r.silent = 0
			} else {
				r.silent += frame
			}
			r.sum, r.in = 0, 0
		}
	}
	r.pos += int64(len(pcm))
	if len(r.out) >= 1<<14 {
		r.flush()
	}
}

func (r *recorder) flush() {
	if len(r.out) == 0 || r.err != nil {
		return
	}
	if _, err := r.w.Write(r.out); err != nil {
		r.err = err
	}
	r.out = r.out[:0]
}
