package phonetest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// window is how much of a tone must be heard in one piece: 100 ms.
const window = rate / 10

// Hears returns when the tone of freq Hz is heard for 200 ms from now on. The
// error says what was heard instead when ctx ends first.
func (c *Call) Hears(ctx context.Context, freq float64) error {
	mark := c.audio.mark()
	for {
		pcm, more := c.audio.since(mark)
		if len(pcm) >= 2*window {
			for at := 0; at+2*window <= len(pcm); at += window / 2 {
				if has(pcm[at:at+window], freq) && has(pcm[at+window:at+2*window], freq) {
					return nil
				}
			}
			mark += int64(max(0, len(pcm)-2*window) / (window / 2) * (window / 2))
		}
		select {
		case <-more:
		case <-c.done:
			return fmt.Errorf("listen for %g Hz: %w", freq, errOver)
		case <-ctx.Done():
			part, rms := share(pcm, freq)
			return fmt.Errorf("listen for %g Hz: %w; heard %d packets, lately %d samples at level %.0f, %.0f%% of it there",
				freq, context.Cause(ctx), c.audio.received.Load(), len(pcm), rms, part*100)
		}
	}
}

// HearsSilence returns when nothing audible was heard for d, whether silence
// or no packets at all.
func (c *Call) HearsSilence(ctx context.Context, d time.Duration) error {
	mark := c.audio.mark()
	quiet := time.NewTimer(d)
	defer quiet.Stop()
	for {
		pcm, more := c.audio.since(mark)
		if _, rms := share(pcm, 0); rms >= loud {
			quiet.Reset(d)
		}
		mark += int64(len(pcm))
		select {
		case <-quiet.C:
			return nil
		case <-more:
		case <-c.done:
			return fmt.Errorf("listen for silence: %w", errOver)
		case <-ctx.Done():
			return fmt.Errorf("listen for silence: %w; heard %d packets", context.Cause(ctx), c.audio.received.Load())
		}
	}
}

// Record returns what is heard in the next d, or until the call ends: 8,000
// samples a second, lost packets as silence.
func (c *Call) Record(d time.Duration) []int16 {
	mark := c.audio.mark()
	t := time.NewTimer(min(d, 20*time.Second))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.done:
	}
	pcm, _ := c.audio.since(mark)
	return pcm
}

// Share says how much of the power of a recording is at freq, 0 to 1, and how
// loud it is (rms; a phone's own tone has about 5,600).
func Share(pcm []int16, freq float64) (part, rms float64) { return share(pcm, freq) }

// Press presses keys, 0-9 * # A-D, as telephone-events (RFC 4733): 100 ms and
// 120 ms of pause each. It returns when all were sent.
func (c *Call) Press(ctx context.Context, keys string) error {
	for _, k := range keys {
		event := strings.IndexRune("0123456789*#ABCD", k)
		if event < 0 {
			return fmt.Errorf("press %q: no such key", k)
		}
		c.audio.mu.Lock()
		able := c.audio.event != 0 && c.audio.send
		c.audio.mu.Unlock()
		if !able {
			return fmt.Errorf("press keys: the other end takes no telephone-event now")
		}
		if err := c.audio.press(ctx, byte(event)); err != nil {
			return fmt.Errorf("press keys: %w", err)
		}
	}
	return nil
}

// Keys are the keys heard so far.
func (c *Call) Keys() string {
	s, _ := c.audio.keysHeard()
	return s
}

// WaitKeys returns when the keys heard end with want.
func (c *Call) WaitKeys(ctx context.Context, want string) error {
	for {
		s, more := c.audio.keysHeard()
		if strings.HasSuffix(s, want) {
			return nil
		}
		select {
		case <-more:
		case <-c.done:
			return fmt.Errorf("wait for keys %q, have %q: %w", want, s, errOver)
		case <-ctx.Done():
			return fmt.Errorf("wait for keys %q, have %q: %w", want, s, context.Cause(ctx))
		}
	}
}

// Packets counts the RTP packets of the call.
func (c *Call) Packets() (sent, received int64) {
	return c.audio.sent.Load(), c.audio.received.Load()
}

// RemoteMedia is where the call's audio goes; invalid while unknown.
func (c *Call) RemoteMedia() netip.AddrPort {
	c.audio.mu.Lock()
	defer c.audio.mu.Unlock()
	return c.audio.remote
}
