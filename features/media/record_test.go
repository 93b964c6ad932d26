package media

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtp"
)

// voice sample i of a stream that never repeats within a packet.
func sample(i int) byte { return byte(i*7 + i/160) }

// run records packets that arrive at given times and returns the samples.
func run(t *testing.T, arrivals []arrival, length time.Duration) []int16 {
	t.Helper()
	t0 := time.Unix(5000, 0)
	var b bytes.Buffer
	j := newJitter(t0)
	r := &recorder{w: &b, limit: samples(time.Hour), began: t0, lastAt: t0}
	slices.SortStableFunc(arrivals, func(a, b arrival) int { return int(a.at - b.at) })
	for at := 80 * time.Millisecond; at <= length; at += 80 * time.Millisecond {
		for len(arrivals) > 0 && arrivals[0].at <= at {
			j.push(arrivals[0].pkt, muLaw, t0.Add(arrivals[0].at))
			arrivals = arrivals[1:]
		}
		r.turn(j, t0.Add(at), false)
	}
	r.turn(j, t0.Add(length), true)
	out := make([]int16, b.Len()/2)
	for i := range out {
		out[i] = int16(binary.LittleEndian.Uint16(b.Bytes()[2*i:]))
	}
	if int64(len(out)) != r.pos {
		t.Errorf("%d samples written, %d counted", len(out), r.pos)
	}
	return out
}

type arrival struct {
	at  time.Duration
	pkt *rtp.Packet
}

// voices makes n packets of size samples, from a start time and timestamp.
func voices(n, size int, from time.Duration, ts, ssrc uint32) []arrival {
	out := make([]arrival, n)
	for i := range out {
		data := make([]byte, size)
		for k := range data {
			data[k] = sample(i*size + k)
		}
		at := from + time.Duration((i+1)*size)*time.Second/Rate
		out[i] = arrival{at, &rtp.Packet{Header: rtp.Header{SSRC: ssrc, SequenceNumber: uint16(i), Timestamp: ts + uint32(i*size)}, Payload: data}}
	}
	return out
}

// same checks that got holds the stream's samples from at on, n of them.
func same(t *testing.T, got []int16, at, n int) {
	t.Helper()
	for i := range n {
		if at+i >= len(got) || got[at+i] != fromMu[sample(i)] {
			t.Fatalf("sample %d of the stream is not at %d of %d", i, at+i, len(got))
		}
	}
}

func TestRecordingPutsPacketsInOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{80, 160, 240, 480} {
		in := voices(4*8000/size, size, 0, 1<<32-5000, 7)
		for i := range in { // up to 35 ms late each, some twice
			in[i].at += time.Duration(rnd.IntN(35)) * time.Millisecond
			if i%9 == 0 {
				in = append(in, arrival{in[i].at + 20*time.Millisecond, in[i].pkt})
			}
		}
		got := run(t, in, 4100*time.Millisecond)
		same(t, got, 0, 31000)
	}
}

func TestRecordingSurvivesChangesOfSource(t *testing.T) {
	// Another SSRC after a second, a pause of one second, then timestamps that jump.
	in := voices(50, 160, 0, 1000, 1)
	in = append(in, voices(50, 160, time.Second, 77, 2)...)
	in = append(in, voices(50, 160, 3*time.Second, 77+8000*5000, 2)...)
	got := run(t, in, 4*time.Second)
	if d := len(got) - 4*Rate; abs(d) > Rate/10 {
		t.Errorf("%d samples of 4 s", len(got))
	}
	same(t, got, 0, 7900)
	same(t, got, 8000, 7900)
	at := slices.IndexFunc(got[20000:], func(s int16) bool { return s != 0 }) + 20000
	if abs(at-24000) > 800 {
		t.Errorf("the third part begins at %d", at)
	}
}

func TestRecordingFollowsASlowClock(t *testing.T) {
	// A sender whose clock is half a percent slow: nothing is cut into it.
	in := voices(1000, 160, 0, 0, 1)
	for i := range in {
		in[i].at += in[i].at / 200
	}
	got := run(t, in, 20100*time.Millisecond)
	same(t, got, 0, 159000)
}

func TestJitterQueueIsBounded(t *testing.T) {
	j := newJitter(time.Unix(0, 0))
	for i := range 3 * maxQueue {
		j.push(packet(uint16(i), uint32(i*160), 1), muLaw, time.Unix(0, 0))
	}
	if len(j.queue) != maxQueue || j.lost != 2*maxQueue {
		t.Errorf("%d queued, %d lost", len(j.queue), j.lost)
	}
	if h := j.hold(); h < 40*time.Millisecond || h > 200*time.Millisecond {
		t.Errorf("hold %v", h)
	}
}
