package state

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// An Invite is the record of a token: without its secret, so that a reader of
// the state cannot use it.
type Invite struct {
	ID      site.RecordID
	Site    site.ID // the box will serve it
	Claim   []byte  // mesh/invite.Claim, encoded
	Made    time.Time
	Expires time.Time
	By      string

	Redeemed   site.NodeID // zero: not yet
	RedeemedAt time.Time
	Revoked    bool
	RevokedAt  time.Time
	RevokedBy  string
}

// State of an invite at a time: open, redeemed, revoked or expired.
func (i Invite) State(now time.Time) string {
	switch {
	case !i.Redeemed.IsZero():
		return "redeemed"
	case i.Revoked:
		return "revoked"
	case now.After(i.Expires):
		return "expired"
	}
	return "open"
}

type wireInvite struct {
	_       struct{} `cbor:",toarray"`
	Site    []byte
	Made    int64
	Expires int64
}

type wireRedeemed struct {
	_    struct{} `cbor:",toarray"`
	Node []byte
	At   int64
}

// PutInvite records a token that was just made here.
func (s *State) PutInvite(ctx context.Context, by string, i Invite) error {
	m := Mutation{Scope: s.scope}
	s.cfg.Engine.View(func(v View) {
		ref, more := s.person(v, by)
		m.By = ref
		m.Writes = append([]crdt.Write{
			{Table: TableInvite, Record: string(i.ID[:]), Field: inviteClaim, Value: i.Claim},
			{Table: TableInvite, Record: string(i.ID[:]), Field: inviteInfo, Value: marshal(wireInvite{Site: i.Site[:], Made: i.Made.Unix(), Expires: i.Expires.Unix()})},
		}, more...)
	})
	if _, err := s.commit(ctx, m); err != nil {
		return fmt.Errorf("record invite %s: %w", i.ID, err)
	}
	return nil
}

func (s *State) readInvite(v View, rec string) (i Invite, ok bool) {
	set := v.Set(s.scope)
	var w wireInvite
	info, ok := reader{set, TableInvite, rec}.latest(inviteInfo)
	if len(rec) != len(i.ID) {
		return i, false
	}
	i.ID = site.RecordID([]byte(rec))
	if ok && unmarshal(info.Value, &w) && len(w.Site) == len(i.Site) {
		i.Site, i.Made, i.Expires = site.ID(w.Site), time.Unix(w.Made, 0), time.Unix(w.Expires, 0)
		i.Claim, i.By = reader{set, TableInvite, rec}.bytes(inviteClaim), s.personOf(v, info.By)
	}
	if f, done := set.Final(TableRedeemed, rec); done {
		var w wireRedeemed
		if unmarshal(f.Value, &w) && len(w.Node) == len(i.Redeemed) {
			i.Redeemed, i.RedeemedAt = site.NodeID(w.Node), time.Unix(w.At, 0)
		}
	}
	if f, done := set.Final(TableRevoked, rec); done {
		i.Revoked, i.RevokedAt, i.RevokedBy = true, time.UnixMilli(f.Stamp.Millis()), s.personOf(v, f.By)
	}
	return i, ok || !i.Redeemed.IsZero() || i.Revoked
}

// Invite finds one. A redemption or revocation is known even if the record of
// the invite has not arrived here.
func (s *State) Invite(id site.RecordID) (i Invite, ok bool) {
	s.cfg.Engine.View(func(v View) { i, ok = s.readInvite(v, string(id[:])) })
	return i, ok
}

// Invites lists those of this site, newest first.
func (s *State) Invites() (out []Invite) {
	s.cfg.Engine.View(func(v View) {
		for _, rec := range v.Set(s.scope).Records(TableInvite) {
			if i, ok := s.readInvite(v, rec); ok {
				out = append(out, i)
			}
		}
	})
	slices.SortFunc(out, func(a, b Invite) int {
		if d := b.Made.Compare(a.Made); d != 0 {
			return d
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	return out
}

// end writes a final about an invite, if it has none of either kind.
func (s *State) end(ctx context.Context, by string, table uint16, id site.RecordID, value []byte) error {
	ref, _ := byRef(by)
	_, err := s.commit(ctx, Mutation{Scope: s.scope, By: ref,
		Writes: []crdt.Write{{Table: table, Record: string(id[:]), Value: value, Flags: crdt.Final}},
		Precondition: func(v View) error {
			i, _ := s.readInvite(v, string(id[:]))
			switch {
			case !i.Redeemed.IsZero():
				return fmt.Errorf("%w: node %s redeemed it at %s", ErrState, i.Redeemed, i.RedeemedAt.UTC().Format(time.RFC3339))
			case i.Revoked:
				return fmt.Errorf("%w: %s revoked it at %s", ErrState, i.RevokedBy, i.RevokedAt.UTC().Format(time.RFC3339))
			}
			return nil
		}})
	return err
}

// RevokeInvite makes a token worthless. A box that was admitted with it stays:
// revoke the node.
func (s *State) RevokeInvite(ctx context.Context, by string, id site.RecordID) error {
	if _, ok := s.Invite(id); !ok {
		return fmt.Errorf("revoke invite %s: %w", id, ErrNotFound)
	}
	if err := s.end(ctx, by, TableRevoked, id, []byte{}); err != nil {
		return fmt.Errorf("revoke invite %s: %w", id, err)
	}
	return nil
}

// RedeemInvite uses a token up. If the other half of a cut pair did the same,
// the older redemption stands after the merge: ask Invite again then.
func (s *State) RedeemInvite(ctx context.Context, id site.RecordID, by site.NodeID) error {
	if err := s.end(ctx, "system", TableRedeemed, id, marshal(wireRedeemed{Node: by[:], At: s.cfg.Now().Unix()})); err != nil {
		return fmt.Errorf("redeem invite %s: %w", id, err)
	}
	return nil
}

// A VoidRedemption is a box that a cut-off node admitted with an invite that
// somebody else had used before. It waits for a person: approve it again with
// an invite of its own, or revoke it.
type VoidRedemption struct {
	Invite site.RecordID
	Node   site.NodeID // admitted, and should not have been
	Stands site.NodeID // whose redemption counts
}

// VoidRedemptions lists those that this node caused; the node that redeemed
// second is the one that remembers.
func (s *State) VoidRedemptions() (out []VoidRedemption, err error) {
	if s.cfg.History == nil {
		return nil, nil
	}
	for _, i := range s.Invites() {
		cell := crdt.Cell{Scope: s.scope, Table: TableRedeemed, Record: string(i.ID[:])}
		err := s.cfg.History(cell, func(p Past) error {
			var w wireRedeemed
			if p.Cell == cell && unmarshal(p.Version.Value, &w) && len(w.Node) == len(site.NodeID{}) && site.NodeID(w.Node) != i.Redeemed {
				if _, err := s.cfg.Book.Member(site.NodeID(w.Node)); err == nil {
					out = append(out, VoidRedemption{Invite: i.ID, Node: site.NodeID(w.Node), Stands: i.Redeemed})
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read what became of invite %s: %w", i.ID, err)
		}
	}
	return out, nil
}
