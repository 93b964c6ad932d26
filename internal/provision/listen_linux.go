package provision

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// ListenPnP opens the two sockets that ServePnP wants, for the network of an
// interface: one that hears the group, and one at own, an address of ours on
// that network, that answers. The first is bound to the group's address alone,
// so that it takes nothing from whoever speaks SIP on port 5060.
func ListenPnP(ifi *net.Interface, own netip.Addr) (group, answer Conn, err error) {
	g, err := joinGroup(ifi, Group)
	if err != nil {
		return nil, nil, fmt.Errorf("join %s on %s: %w", Group, ifi.Name, err)
	}
	a, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 0)))
	if err != nil {
		g.Close()
		return nil, nil, fmt.Errorf("open a socket at %s to answer phones: %w", own, err)
	}
	return g, a, nil
}

func joinGroup(ifi *net.Interface, group netip.AddrPort) (*net.UDPConn, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, syscall.IPPROTO_UDP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "pnp")
	defer f.Close()
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	// IP_MULTICAST_ALL 0: only the interface joined here, not those that others
	// of this host joined.
	const multicastAll = 49
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, multicastAll, 0); err != nil {
		return nil, os.NewSyscallError("setsockopt IP_MULTICAST_ALL", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	join := &syscall.IPMreqn{Multiaddr: group.Addr().As4(), Ifindex: int32(ifi.Index)}
	if err := syscall.SetsockoptIPMreqn(fd, syscall.IPPROTO_IP, syscall.IP_ADD_MEMBERSHIP, join); err != nil {
		return nil, os.NewSyscallError("setsockopt IP_ADD_MEMBERSHIP", err)
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%T is no UDP socket", c)
	}
	return u, nil
}
