package lab

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// A shop has an account at a provider, which is a telephone system of another
// fleet: it registers, calls out with a password, is called, and says what is
// wrong when the password is.
func TestTrunkRegistersAndCalls(t *testing.T) {
	l := labkit.New(t, "a", "b")
	shop := l.Host("a", "a1").Box()
	shop.Up("--new-fleet", "shop", "--domain", "shop.example", "--site", "0001")
	provider := l.Host("b", "p1").Box()
	provider.Up("--new-fleet", "provider", "--domain", "prov.example", "--site", "0100")
	account := provider.User("201", "--name", "The shop", "--password", "trunk secret")
	far := registered(t, l.Host("b", "far"), provider.Account(provider.User("202", "--name", "Far", "--e164", "+33472009999"), 60), 1000)
	ana := registered(t, l.Host("a", "ana"), shop.Account(shop.User("201", "--name", "Ana"), 60), 440)

	shop.Must("trunk", "create", "prov", "--kind", "register", "--via", "wan", "--server", provider.Host.Addr.String(), "--domain", "prov.example",
		"--user", account.Devices[0].SIPUser, "--password", "wrong", "--profile-identity", "pai", "--number", "+33472001200")
	l.Within(10*time.Second, "the trunk says that the password is wrong", func() bool {
		return strings.Contains(shop.Must("status"), "password")
	})
	shop.Must("trunk", "set", "prov", "--password", "trunk secret")
	l.Within(10*time.Second, "the trunk is registered", func() bool {
		st := shop.Status()
		return len(st.Trunks) == 1 && st.Trunks[0].Usable && strings.Contains(st.Trunks[0].State, "registered")
	})
	shop.Must("number", "create", "+33472001200", "--to", "201")

	call(t, ana, far, "+33472009999")
	hangUp(t, ana, far)
	call(t, far, ana, "201") // the account
	hangUp(t, far, ana)

	l.Cut("a")
	mark := ana.Mark()
	begun := time.Now()
	ana.Dial("112")
	ana.Await(mark, "CALL_CLOSED", 20*time.Second)
	t.Logf("without the WAN and without a gateway, 112 was given up after %v", time.Since(begun).Round(time.Millisecond))
	if out := shop.Must("status"); !strings.Contains(out, "no emergency calls when the Internet is cut") || !strings.Contains(out, "112 called by Ana") {
		t.Errorf("status does not warn, or does not tell of the call:\n%s", out)
	}
}
