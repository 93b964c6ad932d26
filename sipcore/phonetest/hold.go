package phonetest

import (
	"context"
	"time"
)

// HoldInactive is Hold with media in neither direction asked for (RFC 3264 §8.4
// allows both), as some phones hold a second time.
func (c *Call) HoldInactive(ctx context.Context) error { return c.change(ctx, inactive) }

// Held says whether the other end has put this phone on hold: it asked for
// nothing from here to be heard.
func (c *Call) Held() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isUp && !c.theirs.dir.hears()
}

// A Sound is what was heard in some time.
type Sound struct {
	Packets int64   // of RTP that came, of any kind
	Level   float64 // rms; a phone's own tone has about 5,600, below 300 nothing is audible
	Tone    float64 // Hz of the purest tone, to 5 Hz; 0: silence, or no tone
}

// Listen says what arrives in the next d, or until the call ends: whether RTP
// comes at all, for instance while a call is held, and which tone is in it.
func (c *Call) Listen(d time.Duration) Sound {
	_, before := c.Packets()
	pcm := c.Record(d)
	_, after := c.Packets()
	s := Sound{Packets: after - before}
	best := 0.0
	for f := 50.0; f < rate/2; f += 5 {
		part, rms := share(pcm, f)
		s.Level = rms
		if rms >= loud && part >= pure && part > best {
			best, s.Tone = part, f
		}
	}
	return s
}
