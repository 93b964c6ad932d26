package labkit

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/test/lab/scenarios"
)

// A Load is one run of SIPp.
type Load struct {
	Scenario  string // file of test/lab/scenarios without .xml
	Server    string // host:port
	Users     []User // taken in turn
	Calls     int    // how many in all; 0 goes on until the test ends it
	Rate      int    // new ones per second, default 10
	Limit     int    // open at once, default Calls
	Port      int    // local, default any
	From      string // local address, default the host's
	Transport string // u1 (default), un, t1, tn; ui sends from each user's Addr
	Pause     time.Duration
	Keys      map[string]string // values for [name] in the scenario
	Echo      bool              // sends back the RTP it gets
	Files     map[string][]byte // for the scenario, beside it
	Patience  time.Duration     // for each expected message, default 20 s
	Within    time.Duration     // gives up then, default a minute
}

// A User is a line of the load's CSV file.
type User struct {
	Name, AuthUser, Password, Domain string
	Calls                            string // the number this user dials
	Addr                             string // of his telephone, default Load.From
}

// A Sipp is a run of SIPp in progress.
type Sipp struct {
	*Process
	load      Load
	stat, rtt string
}

// A Tally is what SIPp counted.
type Tally struct {
	Good, Bad int             // calls, in SIPp's sense: a run of the scenario
	Retrans   int             // messages sent again
	Took      []time.Duration // of what the scenario measures, in whole milliseconds, shortest first
}

// Percentile is the time that p percent of the measured times did not exceed.
func (y Tally) Percentile(p int) time.Duration {
	if len(y.Took) == 0 {
		return 0
	}
	return y.Took[min(len(y.Took)-1, len(y.Took)*p/100)]
}

// StartSipp starts a load.
func (h *Host) StartSipp(d Load) *Sipp {
	t := h.lab.T
	t.Helper()
	Need(t, "sipp")
	h.lab.mu.Lock()
	n := len(h.lab.procs)
	h.lab.mu.Unlock()
	dir := filepath.Dir(h.File(fmt.Sprintf("sipp-%s-%d/x", d.Scenario, n)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := scenarios.FS.ReadFile(d.Scenario + ".xml")
	if err != nil {
		t.Fatal(err)
	}
	if d.Transport == "ui" { // SIPp then knows neither address nor port of its own
		script = bytes.ReplaceAll(script, []byte("[local_ip]:[local_port]"), []byte("[field4]:5070"))
	}
	from := d.From
	if from == "" {
		from = h.Addr.String()
	}
	var users strings.Builder
	users.WriteString("SEQUENTIAL\n")
	for _, u := range d.Users {
		auth := u.AuthUser
		if auth == "" {
			auth = u.Name
		}
		addr := u.Addr
		if addr == "" {
			addr = from
		}
		fmt.Fprintf(&users, "%s;[authentication username=%s password=%s];%s;%s;%s\n", u.Name, auth, u.Password, u.Domain, u.Calls, addr)
	}
	for name, text := range map[string]string{"script.xml": string(script), "users.csv": users.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range d.Files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := &Sipp{load: d, stat: filepath.Join(dir, "stat.csv")}
	rate, limit, within := d.Rate, d.Limit, d.Within
	if rate == 0 {
		rate = 10
	}
	if limit == 0 {
		limit = max(d.Calls, 10)
	}
	if within == 0 {
		within = time.Minute
	}
	patience := d.Patience
	if patience == 0 {
		patience = 20 * time.Second
	}
	transport := d.Transport
	if transport == "" {
		transport = "u1"
	}
	args := []string{
		"-sf", "script.xml", "-i", from, "-mi", from, "-t", transport,
		"-r", strconv.Itoa(rate), "-l", strconv.Itoa(limit), "-d", strconv.FormatInt(d.Pause.Milliseconds(), 10),
		"-nostdin", "-trace_stat", "-stf", "stat.csv", "-fd", "1", "-trace_rtt", "-rtt_freq", "1",
		"-trace_err", "-error_file", "errors.log", "-trace_logs", "-log_file", "said.log",
		"-timeout", fmt.Sprintf("%ds", int(within.Seconds())), "-timeout_error",
		"-mp", strconv.Itoa(16384 + n%1000*20), "-recv_timeout", strconv.FormatInt(patience.Milliseconds(), 10), "-max_socket", "2000",
	}
	if transport == "ui" {
		args = append(args, "-ip_field", "4")
	}
	if d.Port != 0 {
		args = append(args, "-p", strconv.Itoa(d.Port))
	}
	if d.Calls != 0 {
		args = append(args, "-m", strconv.Itoa(d.Calls))
	}
	if len(d.Users) != 0 {
		args = append(args, "-inf", "users.csv")
	}
	if d.Echo {
		args = append(args, "-rtp_echo")
	}
	for k, v := range d.Keys {
		args = append(args, "-key", k, v)
	}
	if d.Server != "" {
		args = append(args, d.Server)
	}
	s.rtt = dir
	s.Process = h.StartIn(dir, []string{"TERM=dumb"}, "sipp "+d.Scenario, "sipp", args...)
	return s
}

// Sipp runs a load to its end.
func (h *Host) Sipp(d Load) (Tally, error) {
	h.lab.T.Helper()
	s := h.StartSipp(d)
	return s.Result()
}

// Result waits for the load's end. The error says what SIPp complained about,
// if any run of the scenario failed.
func (s *Sipp) Result() (Tally, error) {
	within := s.load.Within
	if within == 0 {
		within = time.Minute
	}
	err := s.Wait(within + 10*time.Second)
	y := s.Tally()
	if err == nil && y.Bad == 0 {
		return y, nil
	}
	complaints, _ := os.ReadFile(filepath.Join(s.rtt, "errors.log"))
	return y, fmt.Errorf("sipp %s: %d good, %d bad, %v\n%.3000s\n%s", s.load.Scenario, y.Good, y.Bad, err, complaints, s.Tail(5))
}

// Said is what the scenario logged.
func (s *Sipp) Said() string {
	b, _ := os.ReadFile(filepath.Join(s.rtt, "said.log"))
	return string(b)
}

// Tally reads what SIPp has counted so far.
func (s *Sipp) Tally() Tally {
	var y Tally
	rows := readCSV(s.stat)
	if len(rows) > 1 {
		head, last := rows[0], rows[len(rows)-1]
		get := func(name string) int {
			if i := slices.Index(head, name); i >= 0 && i < len(last) {
				n, _ := strconv.Atoi(last[i])
				return n
			}
			return 0
		}
		y.Good, y.Bad, y.Retrans = get("SuccessfulCall(C)"), get("FailedCall(C)"), get("Retransmissions(C)")
	}
	files, _ := filepath.Glob(filepath.Join(s.rtt, "*_rtt.csv"))
	for _, f := range files {
		for i, row := range readCSV(f) {
			if i == 0 || len(row) < 2 {
				continue
			}
			if ms, err := strconv.ParseFloat(row[1], 64); err == nil {
				y.Took = append(y.Took, time.Duration(ms*float64(time.Millisecond)))
			}
		}
	}
	slices.Sort(y.Took)
	return y
}

func readCSV(file string) [][]string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.FieldsPerRecord, r.LazyQuotes = ';', -1, true
	rows, _ := r.ReadAll() // a line being written ends the reading
	return rows
}

// Sipsak asks a server for its options and returns what sipsak printed; its
// exit status is the error.
func (h *Host) Sipsak(uri string, more ...string) (string, error) {
	h.lab.T.Helper()
	Need(h.lab.T, "sipsak")
	return h.Run(15*time.Second, "sipsak", append([]string{"-v", "-s", uri}, more...)...)
}

// UsedCPU is the processor time of a load that has ended.
func (s *Sipp) UsedCPU() time.Duration {
	st := s.cmd.ProcessState
	if st == nil {
		return 0
	}
	return st.UserTime() + st.SystemTime()
}
