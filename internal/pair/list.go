package pair

import (
	"cmp"
	"slices"

	"carrierclass.net/ccnode/internal/site"
)

// All returns every live registration of the site, by key: for whoever examines
// the network the phones come from.
func (t *Table) All() []site.Binding {
	now := t.cfg.Now()
	t.mu.RLock()
	out := make([]site.Binding, 0, len(t.byKey))
	for _, e := range t.byKey {
		if e.mono.IsZero() || e.mono.After(now) {
			out = append(out, e.b)
		}
	}
	t.mu.RUnlock()
	slices.SortFunc(out, func(a, b site.Binding) int { return cmp.Compare(a.Key(), b.Key()) })
	return out
}
