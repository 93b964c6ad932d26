package wanrelay

import (
	"errors"
	"net"
	"net/netip"
	"time"
)

// A datagram is on its way between two sites.
type datagram struct {
	data []byte
	due  time.Time
	via  *net.UDPConn // the sender's outside address and port
	to   netip.AddrPort
}

// readUDP takes what comes to one port of to's outside address.
func (r *Relay) readUDP(c *net.UDPConn, to *port, n uint16) {
	buf := make([]byte, mtu+1)
	for {
		size, src, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// An ICMP answer to what this socket sent; the next read goes on.
			if !r.sleep(time.Millisecond) {
				return
			}
			continue
		}
		src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
		from := r.inside[src.Addr()]
		if size > mtu || from == nil || from.udp[src.Port()] == nil {
			r.log.Debug("WAN does not carry this", "from", src, "to", to.Outside, "port", n, "bytes", size)
			continue
		}
		w := r.ways[Direction{from.Site, to.Site}]
		if w.isCut() {
			w.add(func(c *Count) { c.CutBytes += int64(size); c.CutPackets++ })
			continue
		}
		due, ok := w.reserve(r.now(), size+udpHeader, true)
		if !ok {
			w.add(func(c *Count) { c.Overflow++ })
			continue
		}
		d := datagram{append([]byte(nil), buf[:size]...), due, from.udp[src.Port()], netip.AddrPortFrom(to.Inside, n)}
		select {
		case w.datagram <- d:
			w.add(func(c *Count) { c.UDPBytes += int64(size); c.UDPPackets++ })
		default:
			w.add(func(c *Count) { c.Overflow++ })
		}
	}
}

// carryUDP delivers the datagrams of one direction, in order, when due.
func (r *Relay) carryUDP(w *way) {
	for {
		select {
		case d := <-w.datagram:
			if !r.until(r.ctx, d.due) {
				return
			}
			if w.isCut() { // it was in the line when the line was cut
				w.add(func(c *Count) {
					c.CutBytes, c.CutPackets = c.CutBytes+int64(len(d.data)), c.CutPackets+1
					c.UDPBytes, c.UDPPackets = c.UDPBytes-int64(len(d.data)), c.UDPPackets-1
				})
				continue
			}
			d.via.WriteToUDPAddrPort(d.data, d.to) // a datagram nobody takes is a datagram lost
		case <-r.ctx.Done():
			return
		}
	}
}
