// Package bench measures what a registration and a call cost a server in
// processor time, for this product and for Kamailio, with the same SIPp
// scenarios in interleaved rounds of one run.
//
// Its law: only figures of one run are compared, at equal rates, as medians;
// the processor time is the server's own (user and system, all its processes),
// so a busy machine disturbs both alike.
package bench

import _ "embed"

// KamailioConfig is the peer's configuration: users 10000 to 19999 of
// bench.example with the password "secret", on 127.0.0.1 port 5060.
//
//go:embed kamailio.cfg
var KamailioConfig string
