// Package events tells those who follow what happens at one node. What was told
// stays in a bounded memory for a while, so that who was away for a moment goes
// on where it was; who is so slow that the memory went past it is told so and
// let go. Nobody who follows can delay who tells, or another who follows.
package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Sentinels that Next returns when there is nothing more.
var (
	ErrSlow   = errors.New("it was read too slowly")
	ErrClosed = errors.New("the node stops")
	ErrMany   = errors.New("too many follow already")
)

// Config bounds a Hub.
type Config struct {
	Start     time.Time // of the node: numbers of an earlier one are smaller
	Keep      int       // events remembered; default 1024
	KeepBytes int       // of them; default 1 MB
	Followers int       // at once; default 32
}

// An Event is one thing that was told. Numbers only grow, over restarts, too,
// unless the clock goes back; they have gaps.
type Event[T any] struct {
	ID   uint64
	What T
}

// A Hub tells; see New.
type Hub[T any] struct {
	cfg Config

	mu     sync.Mutex
	next   uint64 // number of the next event
	first  uint64 // number of the oldest one that is remembered
	ring   []kept[T]
	bytes  int
	follow int
	closed bool
	news   chan struct{} // closed, and replaced, at each event
}

type kept[T any] struct {
	what T
	size int
}

// New makes a Hub that nobody has told anything.
func New[T any](cfg Config) *Hub[T] {
	if cfg.Keep == 0 {
		cfg.Keep = 1024
	}
	if cfg.KeepBytes == 0 {
		cfg.KeepBytes = 1 << 20
	}
	if cfg.Followers == 0 {
		cfg.Followers = 32
	}
	// 2^20 events in a millisecond are not reached: it is 1 GHz.
	first := uint64(max(cfg.Start.UnixMilli(), 1))<<20 + 1
	return &Hub[T]{cfg: cfg, next: first, first: first, news: make(chan struct{})}
}

// Tell adds an event; size is about how many bytes it holds. It never waits.
func (h *Hub[T]) Tell(what T, size int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.ring = append(h.ring, kept[T]{what, size})
	h.bytes += size
	h.next++
	drop := 0
	for len(h.ring)-drop > h.cfg.Keep || h.bytes > h.cfg.KeepBytes && len(h.ring)-drop > 1 {
		h.bytes -= h.ring[drop].size
		h.ring[drop] = kept[T]{}
		drop++
	}
	h.ring = h.ring[drop:]
	h.first += uint64(drop)
	h.wake()
}

func (h *Hub[T]) wake() {
	close(h.news)
	h.news = make(chan struct{})
}

// Close ends all following, after what was told. The second time it does nothing.
func (h *Hub[T]) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		h.wake()
	}
}

// A Follower reads the events one after the other. It is for one goroutine.
type Follower[T any] struct {
	h    *Hub[T]
	at   uint64 // number of the next event to read
	once sync.Once
}

// Follow begins after the event of that number, or, with 0, with the next one to
// be told. missed says that events between are not remembered.
func (h *Hub[T]) Follow(after uint64) (f *Follower[T], missed bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, false, ErrClosed
	case h.follow >= h.cfg.Followers:
		return nil, false, fmt.Errorf("%w: %d", ErrMany, h.follow)
	}
	f = &Follower[T]{h: h, at: h.next}
	switch {
	case after == 0:
	case after+1 >= h.first && after < h.next:
		f.at = after + 1
	default: // forgotten, of an earlier start, or made up
		missed, f.at = true, h.first
		if after >= h.next {
			f.at = h.next
		}
	}
	h.follow++
	return f, missed, nil
}

// Last is the number before the next event: who begins after it misses nothing.
func (f *Follower[T]) Last() uint64 { return f.at - 1 }

// Next waits for the next event.
func (f *Follower[T]) Next(ctx context.Context) (Event[T], error) {
	for {
		f.h.mu.Lock()
		news := f.h.news
		switch {
		case f.at < f.h.first:
			n := f.h.first - f.at
			f.h.mu.Unlock()
			return Event[T]{}, fmt.Errorf("%w: %d events are forgotten", ErrSlow, n)
		case f.at < f.h.next:
			e := Event[T]{f.at, f.h.ring[f.at-f.h.first].what}
			f.at++
			f.h.mu.Unlock()
			return e, nil
		case f.h.closed:
			f.h.mu.Unlock()
			return Event[T]{}, ErrClosed
		}
		f.h.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return Event[T]{}, ctx.Err()
		}
	}
}

// Close lets go. The second time it does nothing.
func (f *Follower[T]) Close() {
	f.once.Do(func() {
		f.h.mu.Lock()
		f.h.follow--
		f.h.mu.Unlock()
	})
}
