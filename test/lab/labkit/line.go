package labkit

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lineQueue is how much a line holds of what waits for it; what comes beyond is
// lost, as at a router with a small queue.
const lineQueue = time.Second

// Line puts a line of a rate and a length between every two sites: each way
// carries kbit/s, IP headers included, keeps up to a second of packets that wait
// and loses the rest, and takes half of the round trip. It works on kernels
// without netem: what goes from one LAN to another passes a TUN device, whose
// other end is this process. The counters, Cut and Lose are behind it. Once laid
// it can be laid anew with other figures; 0 kbit/s carries at once.
func (l *Lab) Line(kbit int, roundTrip time.Duration) {
	l.T.Helper()
	l.mu.Lock()
	t := l.line
	l.mu.Unlock()
	if t != nil {
		t.set(kbit, roundTrip)
		return
	}
	t = &line{free: map[[2]byte]time.Time{}}
	t.set(kbit, roundTrip)
	l.wan.Must("ip", "tuntap", "add", "dev", "line", "mode", "tun")
	l.wan.Must("ip", "link", "set", "line", "txqueuelen", "2000", "up")
	l.wan.Must("sysctl", "-qw", "net.ipv4.conf.line.rp_filter=0")
	if err := l.wan.Do(func() error { return t.open("line") }); err != nil {
		l.T.Fatalf("lay a line: %v", err)
	}
	// A packet meets the forwarding rules twice: on its way into the line, where
	// nothing happens to it, and behind it, as if it came from its LAN.
	rules := ""
	l.directions(func(_, _ string, i, j int) {
		rules += fmt.Sprintf("insert rule ip lab forward iifname line ip saddr 10.77.%d.0/24 oifname lan%d jump behind_%d_%d\n", i, j, i, j)
		rules = fmt.Sprintf("table ip lab {\nchain behind_%d_%d {\njump way_%d_%d\naccept\n}\n}\n", i, j, i, j) + rules
	})
	for i := range l.sites {
		rules += fmt.Sprintf("insert rule ip lab forward iifname lan%d oifname line accept\n", i+1)
		l.wan.Must("ip", "rule", "add", "iif", bridge(i), "lookup", "77")
	}
	l.wan.Must("ip", "route", "add", "10.77.0.0/16", "dev", "line", "table", "77")
	l.nft(rules)
	l.mu.Lock()
	l.line = t
	l.mu.Unlock()
	l.T.Cleanup(t.close)
}

// line carries the packets of a TUN device, each way between two sites with a
// queue of its own.
type line struct {
	tun *os.File
	wg  sync.WaitGroup

	mu    sync.Mutex
	kbit  int
	delay time.Duration         // one way
	free  map[[2]byte]time.Time // when a way has sent what it was given
	lost  int
}

func (t *line) set(kbit int, roundTrip time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kbit, t.delay = kbit, roundTrip/2
	clear(t.free)
}

// open is called in the namespace of the device.
func (t *line) open(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	t.tun = os.NewFile(uintptr(fd), "/dev/net/tun")
	ways := map[[2]byte]chan packet{}
	t.wg.Go(func() { // ends when the device is closed
		defer func() {
			for _, w := range ways {
				close(w)
			}
		}()
		for {
			b := make([]byte, 2048)
			n, err := t.tun.Read(b)
			if err != nil {
				return
			}
			if n < 20 || b[0]>>4 != 4 {
				continue // not IPv4
			}
			way := [2]byte{b[14], b[18]} // 10.77.<site>.x: from, to
			at, ok := t.reserve(way, int(binary.BigEndian.Uint16(b[2:])), time.Now())
			if !ok {
				continue
			}
			w := ways[way]
			if w == nil {
				w = make(chan packet, 4096)
				ways[way] = w
				t.wg.Go(func() { t.carry(w) })
			}
			w <- packet{b[:n], at}
		}
	})
	return nil
}

type packet struct {
	data []byte
	at   time.Time // when it is at the other end
}

// carry hands on what has arrived, in its order.
func (t *line) carry(w <-chan packet) {
	for p := range w {
		time.Sleep(time.Until(p.at))
		if _, err := t.tun.Write(p.data); err != nil {
			continue // a packet is lost
		}
	}
}

// reserve gives the moment at which a packet is at the other end; false if the
// queue is full.
func (t *line) reserve(way [2]byte, octets int, now time.Time) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kbit == 0 {
		return now.Add(t.delay), true
	}
	free := t.free[way]
	if free.Before(now) {
		free = now
	}
	if free.Sub(now) > lineQueue {
		t.lost++
		return now, false
	}
	free = free.Add(time.Duration(octets) * 8 * time.Millisecond / time.Duration(t.kbit))
	t.free[way] = free
	return free.Add(t.delay), true
}

func (t *line) close() {
	t.tun.Close()
	t.wg.Wait()
}
