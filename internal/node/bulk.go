package node

import (
	"context"
	"errors"
	"net/http"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/state"
)

// CreateUsers makes many users of this site.
func (b *backend) CreateUsers(ctx context.Context, by string, rows []api.UserRow) ([]api.UserRowResult, error) {
	specs := make([]state.Spec, len(rows))
	for i, x := range rows {
		specs[i] = state.Spec{Number: x.Number, Name: x.Name, Password: x.Password, PIN: x.PIN, E164: x.E164}
	}
	made, err := b.n.state.CreateMany(ctx, by, specs)
	if err != nil {
		return nil, refuse(err)
	}
	out := make([]api.UserRowResult, len(made))
	for i, m := range made {
		o := &out[i]
		if m.Err != nil {
			err := refuse(m.Err)
			o.Status, o.Error = http.StatusInternalServerError, err.Error()
			if e := (*api.Error)(nil); errors.As(err, &e) {
				o.Status = e.Status
			}
			if m.NotTried {
				o.Status = max(o.Status, http.StatusInternalServerError)
			}
			continue
		}
		o.ID, o.Number, o.Existed, o.Status = &m.User.ID, m.User.Number, m.Existed, http.StatusCreated
		if m.Existed {
			o.Status = http.StatusOK
			continue
		}
		for _, d := range m.User.Devices {
			o.Realm = d.Realm
			if rows[i].Password == "" {
				o.Password = d.Password
			}
		}
	}
	return out, nil
}
