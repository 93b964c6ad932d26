package state

import (
	"slices"
	"strings"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// A Secret is one sealed value that is in the site's state, without the value.
type Secret struct {
	Table  uint16
	Record site.RecordID
	Kind   string        // as the schema names its table: device, user, trunk, phone
	Field  string        // as the schema names it: password, PIN, admin, token
	Name   string        // of the record, as people call it; of a device, its user's
	Number string        // of the user whose it is, if it is a user's
	User   site.RecordID // the same; zero of other records
	Epoch  trust.Epoch   // of the key that it is sealed under
}

// An Exposure is what a node could open of one site (state.md §7).
type Exposure struct {
	Site    site.ID
	Current bool          // the key that seals new secrets was among them
	Epochs  []trust.Epoch // the keys that were wrapped for it
	Secrets []Secret      // the sealed values that are in force, or count, under one of them
}

// Exposed lists what a node could ever open of this site: the keys that were
// wrapped for it, and every sealed value under them that was not replaced since.
// It opens nothing itself, so a node without those keys answers the same. Of
// what was replaced before nothing is said: it opens no door any more.
func (s *State) Exposed(n site.NodeID) Exposure {
	out := Exposure{Site: s.cfg.Site, Epochs: s.HeldBy(n)}
	if k, ok := s.keys.Current(); ok {
		out.Current = slices.Contains(out.Epochs, k.Epoch())
	}
	if len(out.Epochs) == 0 {
		return out
	}
	s.cfg.Engine.View(func(v View) {
		set := v.Set(s.scope)
		for t, of := range schema {
			secret := false
			for _, f := range of.fields {
				secret = secret || f.secret
			}
			if !secret {
				continue
			}
			for _, rec := range set.Records(t) {
				if r := (reader{set, t, rec}); len(rec) == len(site.RecordID{}) && !r.final() {
					out.Secrets = append(out.Secrets, exposedOf(r, of, out.Epochs)...)
				}
			}
		}
	})
	slices.SortFunc(out.Secrets, func(a, b Secret) int {
		for _, d := range []int{strings.Compare(a.Kind, b.Kind), strings.Compare(a.Number, b.Number), strings.Compare(a.Name, b.Name),
			strings.Compare(string(a.Record[:]), string(b.Record[:]))} {
			if d != 0 {
				return d
			}
		}
		return strings.Compare(a.Field, b.Field)
	})
	return out
}

// exposedOf are the sealed values of one record under one of the epochs. Each
// version counts: passwords set on two sides of a cut open the same door.
func exposedOf(r reader, of table, epochs []trust.Epoch) (out []Secret) {
	for name, f := range of.fields {
		if !f.secret {
			continue
		}
		for _, ver := range r.versions(name) {
			e, ok := trust.EpochOf(ver.Value)
			if !ok || !slices.Contains(epochs, e) {
				continue
			}
			x := Secret{Table: r.table, Record: site.RecordID([]byte(r.rec)), Kind: of.name, Field: f.name, Name: r.text(recordName), Epoch: e}
			user := ""
			switch r.table {
			case TableUser:
				user = r.rec
			case TableDevice:
				user = string(r.bytes(devUser))
			}
			if len(user) == len(x.User) {
				u := reader{r.set, TableUser, user}
				x.User, x.Name, x.Number = site.RecordID([]byte(user)), u.text(userName), u.text(userNumber)
			}
			if !slices.Contains(out, x) {
				out = append(out, x)
			}
		}
	}
	return out
}
