package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

const (
	resyncWait   = 4 * time.Second // for a phone's answer
	resyncAtOnce = 8               // phones asked at a time: all of them come for their files
)

// Resync asks phones to fetch their settings again. Each is asked at every
// line until one answers.
func (x provisioning) Resync(ctx context.Context, who string) ([]api.Resynced, error) {
	if x.n.calls == nil || x.n.calls.sip == nil {
		return nil, api.Unavailable("this box serves no calls yet", "try again in a moment")
	}
	all := state.List[site.Phone](x.n.state)
	if who != "all" {
		m, err := provision.ParseMAC(who)
		all = slices.DeleteFunc(slices.Clone(all), func(p site.Phone) bool {
			own, e := provision.ParseMAC(p.MAC)
			return p.Name != who && p.ID.String() != who && (err != nil || e != nil || own != m)
		})
		if len(all) == 0 {
			return nil, api.NotFound(fmt.Sprintf("no phone %q", who), "see ccnode phone list")
		}
	}
	out := make([]api.Resynced, len(all))
	places := make(chan struct{}, resyncAtOnce)
	var wg sync.WaitGroup
	for i, p := range all {
		places <- struct{}{}
		wg.Go(func() { // ends with the phone's answer, or after resyncWait for each line
			defer func() { <-places }()
			out[i] = api.Resynced{MAC: p.MAC, Phone: p.Name}
			if err := x.resync(ctx, p); err != nil {
				out[i].Reason = err.Error()
				return
			}
			out[i].Asked = true
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b api.Resynced) int { return strings.Compare(a.MAC, b.MAC) })
	return out, nil
}

// resync asks one phone.
func (x provisioning) resync(ctx context.Context, p site.Phone) error {
	event := ""
	for _, k := range provision.Kinds() {
		if string(k.Kind) == p.Vendor {
			event = k.Sync
		}
	}
	if event == "" {
		return fmt.Errorf("nobody knows how a %s is asked; start it again", p.Vendor)
	}
	err := fmt.Errorf("it is not registered; it fetches its settings when it starts")
	for _, line := range p.Lines {
		id, e := site.ParseRecordID(line)
		if e != nil {
			continue
		}
		_, u, e := x.n.state.Device(id)
		if e != nil {
			continue
		}
		_, domain := x.n.state.Fleet()
		for _, b := range x.n.pair.Bindings(site.AOR{User: u.Number, Domain: domain}) {
			if b.Device != id {
				continue // another telephone of the same person
			}
			one, stop := context.WithTimeout(ctx, resyncWait)
			err = x.n.calls.sip.Resync(one, b, event)
			stop()
			if err == nil {
				return nil
			}
		}
	}
	return err
}
