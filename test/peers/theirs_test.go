package peers

import (
	"context"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	dscrdt "github.com/ipfs/go-ds-crdt"
	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// other is a replica of go-ds-crdt as its README puts one together: a libp2p
// host on TCP, gossipsub to announce, bitswap to fetch, its own defaults (it
// announces its heads again every minute). Its store is in memory, without
// fsync, which is to its advantage.
type other struct {
	t testing.TB
	h host.Host
	d *dscrdt.Datastore
	p *other // whom it dials
	x *line
}

func newOther(t testing.TB) *other {
	t.Helper()
	logging.SetAllLoggers(logging.LevelFatal)
	ctx, cancel := context.WithCancel(context.Background())
	// It tells nobody its address, or they would soon go past the line.
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(),
		libp2p.AddrsFactory(func([]multiaddr.Multiaddr) []multiaddr.Multiaddr { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	ps, err := pubsub.NewGossipSub(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	cast, err := dscrdt.NewPubSubBroadcaster(ctx, ps, "peers")
	if err != nil {
		t.Fatal(err)
	}
	store := dssync.MutexWrap(ds.NewMapDatastore())
	blocks := blockstore.NewBlockstore(store)
	swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(h), nil, blocks)
	o := &other{t: t, h: h}
	o.d, err = dscrdt.New(store, ds.NewKey("crdt"), merkledag.NewDAGService(blockservice.New(blocks, swap)), cast, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel() // the broadcaster first, as its documentation asks
		o.d.Close()
		swap.Close()
		h.Close()
	})
	return o
}

func (o *other) meet(p *other, x *line) {
	o.t.Helper()
	o.p, o.x = p, x
	o.again()
	time.Sleep(2 * time.Second) // gossipsub has heard who listens
}

// again connects: go-ds-crdt leaves that to whoever uses it.
func (o *other) again() {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 10*time.Second)
	defer cancel()
	to := multiaddr.StringCast("/ip4/127.0.0.1/tcp/" + portOf(o.x.addr().String()))
	if err := o.h.Connect(ctx, peer.AddrInfo{ID: o.p.h.ID(), Addrs: []multiaddr.Multiaddr{to}}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *other) put(key string, value []byte) error {
	return o.d.Put(o.t.Context(), ds.NewKey(key), value)
}

func (o *other) has(key string) bool {
	ok, err := o.d.Has(o.t.Context(), ds.NewKey(key))
	return err == nil && ok
}

func (o *other) addr() string {
	port, err := o.h.Network().ListenAddresses()[0].ValueForProtocol(multiaddr.P_TCP)
	if err != nil {
		o.t.Fatal(err)
	}
	return "127.0.0.1:" + port
}
