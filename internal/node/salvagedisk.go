package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/replica"
)

// SalvagedDisk is what could be read of the data folder of a box that is dead,
// revoked or cloned.
type SalvagedDisk struct {
	Dir        string // the data folder
	Fleet      string // id of its fleet, hex; empty if that could not be read
	Changes    []*crdt.Change
	Recordings []blob.File
	Damaged    int // places of the store that could not be read
	Torn       int // recordings that are cut off
	Unfinished int // recordings that were being made
}

// ReadDisk reads a data folder, or the disk that /var/lib/ccnode lies on, without
// writing to it: the medium may be mounted read-only. tmp is a folder for copies
// of single files.
func ReadDisk(dir, tmp string) (*SalvagedDisk, error) {
	d := &SalvagedDisk{}
	for _, name := range []string{dir, filepath.Join(dir, "var/lib/ccnode")} {
		if st, err := os.Stat(filepath.Join(name, "db")); err == nil && st.IsDir() {
			d.Dir = name
			break
		}
	}
	if d.Dir == "" {
		return nil, fmt.Errorf("%s is no data folder of a box: there is no folder db in it; name the folder that the box had as --data", dir)
	}
	var m member
	if b, err := os.ReadFile(filepath.Join(d.Dir, memberFile)); err == nil && json.Unmarshal(b, &m) == nil {
		if _, err := m.fleetID(); err == nil {
			d.Fleet = m.FleetID
		}
	}
	s, err := disk.Salvage(filepath.Join(d.Dir, "db"), tmp, replica.Salvageable())
	if err != nil {
		return nil, err
	}
	d.Damaged = s.Damaged
	seen := map[crdt.ID]bool{}
	s.Each(func(key, value []byte) {
		c, ok := replica.Salvage(key, value)
		switch {
		case !ok:
			d.Damaged++
		case !seen[c.ID()]:
			seen[c.ID()] = true
			d.Changes = append(d.Changes, c)
		}
	})
	d.Recordings, d.Torn, d.Unfinished, err = blob.Files(filepath.Join(d.Dir, "blobs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.Torn++ // the changes are worth having all the same
	}
	return d, nil
}
