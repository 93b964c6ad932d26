package node

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Files of the data folder that are not in the store: what must be known
// before the store makes sense.
const (
	keyFile    = "node.key"    // the box itself: 32 bytes
	rootFile   = "root.key"    // the fleet's root, until the founder has confirmed the words
	memberFile = "member.json" // which fleet and site this box belongs to
)

// member is what a box knows of its own membership. It is written last when a
// fleet is founded or joined: without it, the box is nobody yet.
type member struct {
	FleetID  string     `json:"fleetId"` // hex
	Chain    []byte     `json:"chain"`   // founding record and grants down to ours
	Site     site.ID    `json:"site"`
	Code     string     `json:"code"`
	SiteName string     `json:"siteName"`
	Letter   string     `json:"letter"` // of the node within its site
	Fleet    string     `json:"fleet"`
	Domain   string     `json:"domain"`
	ExtLen   int        `json:"extLen,omitempty"`  // of the first site, at founding
	Founder  bool       `json:"founder,omitempty"` // of the fleet
	First    bool       `json:"first,omitempty"`   // of its site: draws the site's key
	Sponsor  []peerAddr `json:"sponsor,omitempty"` // whom to ask first: who admitted us, later our neighbours
	Filled   bool       `json:"filled,omitempty"`  // the store was complete once
}

func (m *member) fleetID() (id crdt.FleetID, err error) {
	b, err := hex.DecodeString(m.FleetID)
	if err != nil || len(b) != len(id) {
		return id, errors.New("it names no fleet")
	}
	return crdt.FleetID(b), nil
}

type peerAddr struct {
	Node  site.NodeID `json:"node"`
	Addrs []string    `json:"addrs"`
	Pair  bool        `json:"pair,omitempty"` // of our own site
	Key   []byte      `json:"key,omitempty"`
	Chain []byte      `json:"chain,omitempty"` // proof of its membership
}

// identity reads the node's key, or makes it at first boot.
func identity(data string, rand io.Reader) (*trust.Identity, error) {
	path := filepath.Join(data, keyFile)
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		id, err := trust.IdentityFromSeed(b)
		if err != nil {
			return nil, fmt.Errorf("%s is damaged (%w); this box can no longer prove who it is: set the folder aside, start empty, and join again with a new invite", path, err)
		}
		return id, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	if _, err := os.Stat(filepath.Join(data, memberFile)); err == nil {
		return nil, fmt.Errorf("%s is missing though this box belongs to a fleet; set the folder %s aside, start empty, and join again with a new invite", path, data)
	}
	id, err := trust.NewIdentity(rand)
	if err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	return id, writeFile(path, id.Seed())
}

// readMember returns nil when the box belongs to no fleet yet.
func readMember(data string) (*member, error) {
	path := filepath.Join(data, memberFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the membership: %w", err)
	}
	m := &member{}
	err = json.Unmarshal(b, m)
	if err == nil {
		_, err = m.fleetID()
	}
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it, or set the folder %s aside, start empty, and join again with a new invite", path, err, data)
	}
	return m, nil
}

func (m *member) encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the membership: %w", err)
	}
	return append(b, '\n'), nil
}

func (m *member) write(data string) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(data, memberFile), b)
}

// remembered finds the membership that member.json should have held: the store
// keeps a copy of it. A folder whose store holds a fleet's data never founds
// another one. lost is what was wrong with the file, nil if it was not there.
func (n *Node) remembered(lost error) error {
	path := n.path(memberFile)
	empty := true
	var kept []byte
	err := n.store.View(func(r disk.Reader) (err error) {
		if kept, err = r.Get(memberKey); err == nil {
			return nil
		}
		return r.Scan([]byte("c/"), func(_, _ []byte) error { empty = false; return io.EOF })
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("look for the membership in the store: %w", err)
	}
	m := &member{}
	switch {
	case kept == nil && lost != nil:
		return lost
	case kept == nil && !empty:
		return fmt.Errorf("%s is missing though this box belongs to a fleet: restore it, or set the folder %s aside, start empty, and join again with a new invite", path, n.cfg.Data)
	case kept == nil:
		return nil // a new box
	}
	if err := json.Unmarshal(kept, m); err != nil {
		return fmt.Errorf("%s is lost, and its copy in the store is damaged (%w): restore it, or set the folder %s aside, start empty, and join again with a new invite", path, err, n.cfg.Data)
	}
	n.log.Warn("Membership was lost and is restored from the store", "file", path, "err", lost)
	n.odd = append(n.odd, path+" was lost or damaged; it was restored from the store: look after this disk")
	n.member = m
	return m.write(n.cfg.Data)
}

// memberKey is where the store keeps a copy of the membership.
var memberKey = []byte("l/node/member")

// remember writes the membership after it changed: the file, and the store's copy.
func (n *Node) remember() error {
	b, err := n.member.encode()
	if err != nil {
		return err
	}
	if err := writeFile(n.path(memberFile), b); err != nil {
		return err
	}
	return n.keepCopy(b)
}

// keepCopy puts the membership into the store, unless it is there.
func (n *Node) keepCopy(b []byte) error {
	var have []byte
	_ = n.store.View(func(r disk.Reader) (err error) { have, err = r.Get(memberKey); return err })
	if bytes.Equal(have, b) {
		return nil
	}
	var batch disk.Batch
	batch.Put(memberKey, b)
	return n.store.Commit(&batch)
}

// maxSponsors bounds the nodes a box remembers outside its store.
const maxSponsors = 8

// sponsors are whom to ask while the store knows nobody.
func (n *Node) sponsors() []peerAddr {
	n.memberMu.Lock()
	defer n.memberMu.Unlock()
	return slices.Clone(n.member.Sponsor)
}

// recall lets the book know the neighbours that a lost store has forgotten.
func (n *Node) recall(fleet crdt.FleetID) {
	for _, p := range n.sponsors() {
		if n.book.Ever(p.Node) != nil || len(p.Chain) == 0 || len(p.Key) != ed25519.PublicKeySize {
			continue
		}
		c, err := trust.VerifyChain(p.Chain, fleet, p.Key)
		if err == nil {
			err = n.book.AddChain(c)
		}
		if err != nil {
			n.log.Warn("A neighbour's proof of membership is not good", "node", p.Node.String(), "err", err)
		}
	}
}

// noteSponsors remembers where our neighbours are, the pair first, so that a
// box whose store is lost finds somebody to fill it.
func (n *Node) noteSponsors() {
	var pair, others []peerAddr
	for _, g := range n.book.Members(site.ID{}) {
		id := g.Node()
		addrs := n.addrsOf(id)
		if id == n.id.Node() || len(addrs) == 0 {
			continue
		}
		c, err := n.book.Chain(g)
		if err != nil {
			continue
		}
		x := peerAddr{Node: id, Addrs: addrs, Pair: g.Site == n.member.Site, Key: g.Key, Chain: c.Encode()}
		if x.Pair {
			pair = append(pair, x)
		} else {
			others = append(others, x)
		}
	}
	all := append(pair, others...)
	all = all[:min(len(all), maxSponsors)]
	n.memberMu.Lock()
	defer n.memberMu.Unlock()
	same := slices.EqualFunc(all, n.member.Sponsor, func(a, b peerAddr) bool {
		return a.Node == b.Node && slices.Equal(a.Addrs, b.Addrs) && bytes.Equal(a.Chain, b.Chain)
	})
	if same || len(all) == 0 {
		return
	}
	n.member.Sponsor = all
	if err := n.remember(); err != nil {
		n.log.Warn("Neighbours are not remembered", "err", err)
	}
}

// root reads the root key while this box still has it; nil afterwards.
func root(data string) (*trust.Root, error) {
	b, err := os.ReadFile(filepath.Join(data, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the root key: %w", err)
	}
	r, err := trust.RootFromSeed(b)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", rootFile, err)
	}
	return r, nil
}

// forgetRoot overwrites and removes the root key.
func forgetRoot(data string) error {
	path := filepath.Join(data, rootFile)
	f, err := os.OpenFile(path, os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("forget the root key: %w", err)
	}
	_, err = f.Write(make([]byte, 64))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil {
		err = syncDir(data)
	}
	if err != nil {
		return fmt.Errorf("forget the root key: %w", err)
	}
	return nil
}

func (n *Node) path(name string) string { return filepath.Join(n.cfg.Data, name) }
