package box

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/api"
)

// Exit codes, as cmd/ccnode documents them.
const (
	refused  = 1
	usage    = 2
	notFound = 3
	noNode   = 4
)

// TestWrongWords: what is wrong is named, with what to do, and scripts can tell
// the kinds apart.
func TestWrongWords(t *testing.T) {
	b := newBox(t)
	b.up()
	b.user("201")
	before := b.status()
	for _, c := range []struct {
		args string // split at spaces; _ is an empty word
		code int
		says string // parts separated by |
	}{
		{"nonsense", usage, "nonsense|ccnode --help"},
		{"usr list", usage, "usr|--help"},
		{"user", 0, ""},
		{"user craete 202", usage, "craete|ccnode user --help"},
		{"user create", usage, "a number, such as 201"},
		{"user create 202 203", usage, "got 2 words"},
		{"user create --bogus 202", usage, "bogus|--help"},
		{"user create 202 --name", usage, "name|--help"},
		{"user list -o xml", usage, "xml|table or json"},
		{"user list ana extra", usage, "extra|a part of a name"},
		{"user list --home 0777", notFound, "0777"},
		{"--at 0777 user list", notFound, "0777"},
		{"user set 201", usage, "nothing to change|--help"},
		{"user set 201 --ring soon", usage, "ring|soon|--help"},
		{"user set 201 --ring 3", refused, "ringSeconds|5"},
		{"user set 201 --pin 12", refused, "PIN|4"},
		{"user set 201 --pin 12ab", refused, "PIN"},
		{"user set 201 --forward-all nobody!", refused, "forward"},
		{"user set 999 --name X", notFound, "999|user list"},
		{"user get 999", notFound, "999|user list"},
		{"user get _", usage, ""},
		{"user delete 999", notFound, "999"},
		{"user restore 999", notFound, "999"},
		{"user disable 999", notFound, "999"},
		{"user create 201", refused, "201|choose another"},
		{"user create abc", refused, "abc"},
		{"user create 2", refused, "2"},
		{"user create 202 --site 9999", notFound, "9999"},
		{"user create 202 --e164 0472", refused, "0472|+"},
		{"user create 202 --pin 1", refused, "PIN"},
		{"user create 202 --password x", refused, "password"},
		{"where 999", notFound, "999"},
		{"where", usage, "a number, name or id"},
		{"voicemail list 999", notFound, "999"},
		{"voicemail play 201 nonsense", refused, "nonsense"},
		{"voicemail play 201 AAAAAAAAAAAAAAAA --out -", notFound, "voicemail list"},
		{"voicemail delete 201 AAAAAAAAAAAAAAAA", notFound, "voicemail list"},
		{"voicemail restore 201 AAAAAAAAAAAAAAAA", notFound, "voicemail list"},
		{"voicemail delete 201", usage, "a message id"},
		{"invite create --site 1x", refused, "1x|digits"},
		{"invite create --expires soon", refused, "soon|24h"},
		{"invite create --expires 100000h", refused, "100000h"},
		{"invite create --expires -1h", refused, "-1h"},
		{"secrets rotate", usage, "--held-by"},
		{"secrets rotate --held-by nobody", notFound, "nobody"},
		{"secrets rotate --held-by nobody --yes", notFound, "nobody"},
		{"node raise", usage, "the node's name"},
		{"node raise nobody", usage, "--admit"},
		{"node raise nobody --admit", notFound, "nobody"},
		{"site set --also-at 0009", refused, "0009|another site"},
		{"invite revoke", usage, "the invite's id"},
		{"invite revoke short", refused, "short"},
		{"invite revoke AAAAAAAAAAAAAAAA", notFound, "AAAAAAAAAAAAAAAA"},
		{"pending approve 123456", notFound, "123456|pending list"},
		{"pending approve 12", refused, "code"},
		{"merges keep nothing 1", notFound, "nothing|merges"},
		{"merges keep", usage, "the merge's id"},
		{"merges keep nothing both", notFound, "nothing|merges"},
		{"history a b c", usage, "a number, a name or an id"},
		{"history nobody", notFound, "nobody|group"},
		{"history planet 201", refused, "planet|group"},
		{"history group 201", notFound, "group 201"},
		{"events extra", usage, "nothing more"},
		{"events --only gossip", usage, "gossip|merge"},
		{"events --after soon", usage, "soon"},
		{"undo", usage, "ccnode history"},
		{"undo 12", refused, "8 digits"},
		{"undo 0123456789abcdef", notFound, "remembers since|ccnode history"},
		{"undo --yes nonsense!", notFound, "nonsense"},
		{"mesh bytes --over soon", refused, "soon|10s"},
		{"mesh bytes --over 9h", refused, "9h"},
		{"route test 201", usage, "who calls and what is dialled"},
		{"route test 999 201", notFound, "999"},
		{"calls --since yesterday", refused, "yesterday|10m"},
		{"node revoke nobody", notFound, "nobody|mesh peers"},
		{"recovery confirm a b", refused, "recovery show"},
		{"--api ftp://x status", usage, "ftp://x|https://"},
		{"--api nonsense status", usage, "nonsense|unix:"},
		{"--api https://127.0.0.1:1 status", noNode, "127.0.0.1:1|ccnode up"},
		{"--api unix:/nonexistent/api.sock status", noNode, "/nonexistent|ccnode up"},
		{"--api https://nowhere.invalid:8443 status", noNode, "nowhere.invalid"},
		{"--api https://" + b.ip.String() + ":8443 --token x status", refused, "--fingerprint"},
		{"--api https://" + b.ip.String() + ":8443 --token x --fingerprint zz status", usage, "zz|64 hex digits"},
		{"up extra", usage, "nothing more"},
		{"up --listen here", usage, "here|IP address"},
		{"up --api-listen off --listen 203.0.113.9 --data " + b.data + "x1", refused, "203.0.113.9|not an address of this box|--listen"},
		{"up --sip-port 70000", usage, "70000|65535"},
		{"up --sip-port x", usage, "sip-port|--help"},
		{"up --media-ports 5", usage, "30000-30999"},
		{"up --media-ports 30000-30001", usage, "at least 4"},
		{"up --site 1", usage, "2 to 8 digits"},
		{"up --extension-digits 9", usage, "extension-digits|2 to 6"},
		{"up --domain not_a_name", usage, "not_a_name|shops.example"},
		{"up --api-listen nowhere", usage, "nowhere|host:port"},
		{"up --api-listen 203.0.113.9:8443 --listen " + b.ip.String() + " --data " + b.data + "x2", refused, "203.0.113.9:8443|--api-listen"},
		{"up --advertise shop.example", usage, "shop.example|IP address"},
		{"up --advertise-only", usage, "--advertise"},
		{"up --advertise 192.0.2.1 --behind-nat", usage, "exclude each other"},
		{"up --log loud", usage, "loud|debug"},
		{"up --max-calls -1", usage, "max-calls|-1"},
		{"up --expires 1s", usage, "expires|1s"},
	} {
		t.Run(c.args, func(t *testing.T) {
			var words []string
			for _, w := range strings.Fields(c.args) {
				if w == "_" {
					w = ""
				}
				words = append(words, w)
			}
			if !strings.Contains(c.args, "--data") {
				words = append([]string{"--data", b.data}, words...)
			}
			a := run(t, words...)
			if a.code != c.code {
				t.Errorf("exit %d, want %d: %s", a.code, c.code, a.err)
			}
			for _, part := range strings.Split(c.says, "|") {
				if !strings.Contains(strings.ToLower(a.err), strings.ToLower(part)) {
					t.Errorf("it does not say %q: %s", part, a.err)
				}
			}
			if a.code != 0 && (strings.Contains(a.err, "panic") || strings.Count(strings.TrimSpace(a.err), "\n") > 3) {
				t.Errorf("not a sentence for a person: %s", a.err)
			}
		})
	}
	if after := b.status(); after.Users != before.Users || after.Merges != before.Merges {
		t.Errorf("wrong words changed something: %+v", after)
	}
	if err := options(b.ip, 2e9); err != nil {
		t.Error(err)
	}
}

func TestWithoutANodeTheCommandsSaySo(t *testing.T) {
	data := filepath.Join(folder(t), "d")
	for _, args := range [][]string{{"status"}, {"user", "list"}, {"invite", "create"}, {"merges"}, {"recovery", "show"}} {
		a := run(t, append(args, "--data", data)...)
		if a.code != noNode {
			t.Errorf("%v: exit %d: %s", args, a.code, a.err)
		}
		has(t, fmt.Sprint(args), a.err, data, "ccnode up", "--data")
	}
}

// TestAddressesInUse: the message names the flag that chooses another.
func TestAddressesInUse(t *testing.T) {
	for _, c := range []struct{ name, network, port, says string }{
		{"SIP UDP", "udp", "5060", "--sip-port"},
		{"SIP TCP", "tcp", "5060", "--sip-port"},
		{"mesh", "tcp", "5870", "--mesh-port"},
		{"API", "tcp", "8443", "--api-listen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			at := net.JoinHostPort(b.ip.String(), c.port)
			if c.network == "udp" {
				l, err := net.ListenPacket("udp", at)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			} else {
				l, err := net.Listen("tcp", at)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			}
			code, said := b.refuses()
			if code != refused {
				t.Errorf("exit %d", code)
			}
			has(t, "the refusal", said, "taken by another program", b.ip.String(), c.port, c.says)
			// The folder stays good for a start that works.
			flag := map[string]string{"5060": "--sip-port=5062", "5870": "--mesh-port=5872", "8443": "--api-listen=off"}[c.port]
			b.up(flag)
		})
	}
}

func TestASecondProcessOnTheFolder(t *testing.T) {
	b := newBox(t)
	b.up()
	b.user("201")
	second := boxIn(t, b.data)
	code, said := second.refuses()
	if code != refused {
		t.Errorf("exit %d", code)
	}
	has(t, "the second process", said, fmt.Sprintf("process %d", b.cmd.Process.Pid), b.data, "stop it first")
	if _, err := ask[[]api.User](b, "GET", "/users", nil); err != nil {
		t.Errorf("the first one suffered: %v", err)
	}
	if _, err := os.Stat(filepath.Join(b.data, "api.sock")); err != nil {
		t.Errorf("the second one took the socket away: %v", err)
	}
}
