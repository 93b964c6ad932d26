package node

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"carrierclass.net/ccnode/crdt"
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
	Founder  bool       `json:"founder,omitempty"` // of the fleet
	First    bool       `json:"first,omitempty"`   // of its site: draws the site's key
	Sponsor  []peerAddr `json:"sponsor,omitempty"` // whom to ask first
}

func (m *member) fleetID() (id crdt.FleetID, err error) {
	b, err := hex.DecodeString(m.FleetID)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%s is damaged: it names no fleet; set the folder aside and join again with a new invite", memberFile)
	}
	return crdt.FleetID(b), nil
}

type peerAddr struct {
	Node  site.NodeID `json:"node"`
	Addrs []string    `json:"addrs"`
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
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w); restore it, or set the folder aside and join again with a new invite", path, err)
	}
	return m, nil
}

func (m *member) write(data string) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write the membership: %w", err)
	}
	return writeFile(filepath.Join(data, memberFile), append(b, '\n'))
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
