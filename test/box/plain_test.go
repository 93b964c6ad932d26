package box

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// plainEnv makes the test's own binary a plain relay: a process that passes the
// packets of speech on and does nothing else. It is what a box is held against.
const plainEnv = "CCNODE_TEST_PLAIN_RELAY"

// packetEvery is how far apart the packets of speech in a stream are.
const packetEvery = 20 * time.Millisecond

// plainRelay passes on what each of so many sockets receives to the address
// to, and ends with its standard input.
func plainRelay(to string, streams int) error {
	sink, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return err
	}
	at := sink.AddrPort()
	for range streams {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: sink.IP})
		if err != nil {
			return err
		}
		fmt.Println(c.LocalAddr())
		go func() {
			b := make([]byte, 2048)
			for {
				n, _, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				_, _ = c.WriteToUDPAddrPort(b[:n], at)
			}
		}()
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the test has ended
	return err
}

// newPlain starts one, sends it that many streams until the test ends, each in a
// step of its own as telephones do, and returns its process.
func newPlain(t *testing.T, streams int) (pid int) {
	t.Helper()
	local := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	sink, err := net.ListenUDP("udp", local)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0], "-test.run=^$")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", plainEnv, sink.LocalAddr(), streams))
	c.Stderr = os.Stderr
	in, err1 := c.StdinPipe()
	out, err2 := c.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	quit := make(chan struct{})
	t.Cleanup(func() {
		close(quit)
		in.Close()
		_ = c.Wait()
		sink.Close()
		wg.Wait()
	})
	lines := bufio.NewScanner(out)
	for i := range streams {
		if !lines.Scan() {
			t.Fatal("the plain relay did not start")
		}
		to, err := net.ResolveUDPAddr("udp", lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		from, err := net.ListenUDP("udp", local)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { // ends with the test
			defer from.Close()
			time.Sleep(packetEvery * time.Duration(i) / time.Duration(streams))
			tick := time.NewTicker(packetEvery)
			defer tick.Stop()
			packet := make([]byte, 172) // G.711
			packet[0] = 0x80
			for n := uint16(0); ; n++ {
				select {
				case <-tick.C:
				case <-quit:
					return
				}
				binary.BigEndian.PutUint16(packet[2:], n)
				_, _ = from.WriteToUDP(packet, to)
			}
		})
	}
	wg.Go(func() { // ends when the sink closes
		b := make([]byte, 2048)
		for {
			if _, _, err := sink.ReadFromUDPAddrPort(b); err != nil {
				return
			}
		}
	})
	return c.Process.Pid
}
