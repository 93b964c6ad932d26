package stack

import (
	"context"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// A House knows what concerns the site's lines to the outside.
type House interface {
	// Public is where a call to one of the site's public numbers goes, as a
	// phone of the site would dial it; "" for a number that is not the site's.
	Public(number string) string
	// Rescued is the line that is rung before, after an emergency call from there.
	Rescued(number string) string
	// CallBack is the number that reaches the place an emergency call comes from.
	CallBack(from site.Party) string
	// Urgent is told of emergency calls at once; it must not block.
	Urgent(b2bua.Emergency)
	// Settle says whose a call is that may have arrived at both nodes of the
	// pair; see b2bua.Lines.
	Settle(ctx context.Context, a b2bua.Arrival) (release func(), mine bool)
	// TestNumber is what a test of the emergency call dials by a trunk.
	TestNumber(trunk string) string
	// Neighbours carry emergency calls that find no line here; Place is where
	// they come from.
	Neighbours() []route.Branch
	Place() string
}

// lines are the trunks as calls want them.
type lines struct {
	*trunk.Trunks
	House
}

// later is the transaction layer, which is made after the trunks.
type later struct{ c *Stack }

func (l later) Request(ctx context.Context, req *sip.Request, d edge.Dest) *transaction.ClientTx {
	return l.c.core.Layer().Request(ctx, req, d)
}

func (c *Stack) openLines() (b2bua.Lines, error) {
	if c.cfg.House == nil {
		return nil, nil
	}
	own := c.cfg.View.Own()
	t, err := trunk.New(trunk.Config{Layer: later{c}, Edge: c.edge, Resolver: c.cfg.Resolver,
		Plan: trunk.Plan{Country: own.Country, Trunk: own.National, Abroad: own.Abroad}, Node: c.cfg.Node.String()[:8],
		Logger: c.cfg.Log.With("room", "trunk"), Now: c.cfg.Now, Rand: c.cfg.Rand})
	if err != nil {
		return nil, err
	}
	c.trunks = t
	return lines{t, c.cfg.House}, nil
}

// Tell shows a text on the phones of a line; see b2bua.Server.Tell.
func (c *Stack) Tell(line site.AOR, from, text string) (phones int) {
	return c.calls.Tell(line, from, text)
}

// Trunks are the site's lines to the outside, nil without Config.House.
func (c *Stack) Trunks() *trunk.Trunks { return c.trunks }
