package transaction

import (
	"container/heap"
	"sync"
	"time"

	"carrierclass.net/ccnode/sipcore/edge"
)

// A shard holds a part of the transactions and one timer for all of them: a
// heap of what is due. It never ticks when nothing is owed.
type shard struct {
	now func() time.Time

	mu      sync.Mutex
	servers map[key]*server
	clients map[key]*client
	heap    dueHeap
	timer   *time.Timer // nil before the first schedule
	armed   time.Time   // when timer will fire; zero: not running
}

// A due is one entry in the heap: the next thing that will happen to its owner.
// Guarded by shard.mu.
type due struct {
	at    time.Time
	index int // in the heap, -1 when not in it
	fire  func(now time.Time)
}

func (s *shard) init(now func() time.Time) {
	s.now = now
	s.servers, s.clients = map[key]*server{}, map[key]*client{}
}

// schedule makes d fire at t, instead of any earlier wish; zero: never.
func (s *shard) schedule(d *due, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.IsZero() && d.index >= 0:
		heap.Remove(&s.heap, d.index)
	case t.IsZero():
	case d.index >= 0:
		d.at = t
		heap.Fix(&s.heap, d.index)
	default:
		d.at = t
		heap.Push(&s.heap, d)
	}
	s.arm()
}

// arm sets the timer to the head of the heap. It is let run when it is early.
func (s *shard) arm() {
	if len(s.heap) == 0 {
		return
	}
	at := s.heap[0].at
	if !s.armed.IsZero() && !s.armed.After(at) {
		return
	}
	s.armed = at
	wait := max(0, at.Sub(s.now()))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.run)
	} else {
		s.timer.Reset(wait)
	}
}

func (s *shard) run() {
	now := s.now()
	var ready []*due
	s.mu.Lock()
	s.armed = time.Time{}
	for len(s.heap) > 0 && !s.heap[0].at.After(now) {
		ready = append(ready, heap.Pop(&s.heap).(*due))
	}
	s.arm()
	s.mu.Unlock()
	for _, d := range ready {
		d.fire(now)
	}
}

func (s *shard) server(k key) *server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.servers[k]
}

func (s *shard) addServer(t *server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers[t.key] != nil {
		return false
	}
	t.due = due{index: -1, fire: t.fire}
	s.servers[t.key] = t
	return true
}

func (s *shard) client(k key) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[k]
}

func (s *shard) addClient(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c.key] = c
}

func (s *shard) dropServer(t *server) {
	s.schedule(&t.due, time.Time{})
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.servers, t.key)
}

func (s *shard) dropClient(c *client) {
	s.schedule(&c.due, time.Time{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[c.key] == c {
		delete(s.clients, c.key)
	}
}

// onFlow lists the client transactions that wait on f, and the INVITEs that
// came by it.
func (s *shard) onFlow(f *edge.Flow) (clients []*client, servers []*server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		if c.dest.Flow == f {
			clients = append(clients, c)
		}
	}
	for _, t := range s.servers {
		if t.invite && t.dest.Flow == f {
			servers = append(servers, t)
		}
	}
	return
}

type dueHeap []*due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueHeap) Push(x any) {
	d := x.(*due)
	d.index = len(*h)
	*h = append(*h, d)
}
func (h *dueHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	d.index = -1
	return d
}
