package transaction_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// since prints times as offsets from the first.
func since(begin time.Time, at []time.Time) string {
	var out []string
	for _, a := range at {
		out = append(out, a.Sub(begin).String())
	}
	return strings.Join(out, " ")
}

func drain(tx *transaction.ClientTx) (n int) {
	for range tx.Responses() {
		n++
	}
	return
}

func nothingKept(t *testing.T, ends ...*end) {
	t.Helper()
	for _, x := range ends {
		if s, c := x.l.Open(); s != 0 || c != 0 {
			t.Errorf("%s still keeps %d server and %d client transactions", x.addr, s, c)
		}
	}
}

func TestTimersAAndB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := ends(t, nil)
		defer a.stop()
		b.stop() // silent
		sent := tap(n)
		begin := time.Now()
		tx := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		drain(tx)
		if got := time.Since(begin); got != 32*time.Second || !errors.Is(tx.Err(), transaction.ErrTimeout) {
			t.Errorf("ended after %s with %v", got, tx.Err())
		}
		if got, want := since(begin, sent("INVITE")), "0s 500ms 1.5s 3.5s 7.5s 15.5s 31.5s"; got != want {
			t.Errorf("INVITE at %s, want %s", got, want)
		}
		nothingKept(t, a)
	})
}

func TestTimersEAndF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := ends(t, nil)
		defer a.stop()
		b.stop()
		sent := tap(n)
		begin := time.Now()
		tx := a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), udp(b))
		drain(tx)
		if got := time.Since(begin); got != 32*time.Second || !errors.Is(tx.Err(), transaction.ErrTimeout) {
			t.Errorf("ended after %s with %v", got, tx.Err())
		}
		if got, want := since(begin, sent("OPTIONS")), "0s 500ms 1.5s 3.5s 7.5s 11.5s 15.5s 19.5s 23.5s 27.5s 31.5s"; got != want {
			t.Errorf("OPTIONS at %s, want %s", got, want)
		}
		nothingKept(t, a)
	})
}

func TestTimersGAndH(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tx *transaction.ServerTx
		n, a, b := ends(t, func(s *transaction.ServerTx) { tx = s; s.Respond(s.Response(486, "")) })
		defer a.stop()
		defer b.stop()
		sent := tap(n)
		n.Fate = func(from, to netip.AddrPort, m []byte) (bool, time.Duration) {
			return bytes.HasPrefix(m, []byte("ACK")) || from == b.addr, 0 // the answer never comes, so no ACK
		}
		begin := time.Now()
		a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		synctest.Wait()
		<-tx.Done()
		if got := time.Since(begin); got != 32*time.Second {
			t.Errorf("timer H after %s", got)
		}
		// Timer G, and one answer for each retransmitted INVITE (timer A).
		g := map[string]bool{}
		for _, at := range sent("SIP/2.0 486") {
			g[at.Sub(begin).String()] = true
		}
		for _, want := range []string{"0s", "500ms", "1.5s", "3.5s", "7.5s", "11.5s", "15.5s", "19.5s", "23.5s", "27.5s", "31.5s"} {
			if !g[want] {
				t.Errorf("no 486 at %s", want)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		nothingKept(t, a, b)
	})
}

// TestTimersDIJKLM counts how long each end is remembered, over UDP and TCP.
func TestTimersDIJKLM(t *testing.T) {
	for _, c := range []struct {
		method         sip.RequestMethod
		status         int
		udpClient      time.Duration // D, K, M
		udpServer      time.Duration // I, J, L
		tcpClient, tcp time.Duration
	}{
		{sip.INVITE, 486, 32 * time.Second, 5 * time.Second, 0, 0},
		{sip.INVITE, 200, 32 * time.Second, 32 * time.Second, 32 * time.Second, 32 * time.Second},
		{sip.OPTIONS, 200, 5 * time.Second, 32 * time.Second, 0, 0},
	} {
		for _, over := range []string{"udp", "tcp"} {
			synctest.Test(t, func(t *testing.T) {
				var server *transaction.ServerTx
				_, a, b := ends(t, func(s *transaction.ServerTx) { server = s; s.Respond(s.Response(c.status, "")) })
				defer a.stop()
				defer b.stop()
				to, wantC, wantS := udp, c.udpClient, c.udpServer
				if over == "tcp" {
					to, wantC, wantS = tcp, c.tcpClient, c.tcp
				}
				begin := time.Now()
				tx := a.l.Request(t.Context(), request(c.method, "10.0.0.2"), to(b))
				if got := statuses(tx); len(got) != 1 || got[0] != c.status {
					t.Fatalf("%s %s: %v %v", c.method, over, got, tx.Err())
				}
				var atC, atS time.Duration
				done := make(chan bool)
				go func() { <-tx.Done(); atC = time.Since(begin); done <- true }()
				go func() { <-server.Done(); atS = time.Since(begin); done <- true }()
				<-done
				<-done
				if atC != wantC || atS != wantS {
					t.Errorf("%s %d over %s: client forgotten after %s, server after %s; want %s and %s", c.method, c.status, over, atC, atS, wantC, wantS)
				}
				nothingKept(t, a, b)
			})
		}
	}
}

func TestHundredAfter200ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		n, a, b := ends(t, func(s *transaction.ServerTx) { <-slow; s.Respond(s.Response(200, "")) })
		defer a.stop()
		defer b.stop()
		sent := tap(n)
		begin := time.Now()
		tx := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		time.Sleep(3 * time.Second)
		close(slow)
		if got := fmt.Sprint(statuses(tx)); got != "[100 200]" {
			t.Errorf("got %s", got)
		}
		if got := since(begin, sent("SIP/2.0 100")); got != "200ms" {
			t.Errorf("100 at %s", got)
		}
		if got := since(begin, sent("INVITE")); got != "0s" {
			t.Errorf("INVITE at %s: timer A must stop at the 100", got)
		}
	})
}

// lossy loses a fifth, but of one call and way not more than two in a row: no
// protocol survives a network that loses everything for 32 s.
func lossy(seed uint64, jitter time.Duration) func(_, _ netip.AddrPort, _ []byte) (bool, time.Duration) {
	random := edgetest.Random(seed, 0.2, jitter)
	row := map[string]int{}
	return func(from, to netip.AddrPort, b []byte) (bool, time.Duration) {
		lost, after := random(from, to, b)
		_, id, _ := strings.Cut(string(b), "Call-ID: ")
		id, _, _ = strings.Cut(id, "\r\n")
		id += from.String()
		row[id]++
		if !lost || row[id] > 2 {
			row[id] = 0
			return false, after
		}
		return true, after
	}
}

// TestLossAndReordering makes 300 calls and 300 other requests over a network
// that loses a fifth and reorders: each is handled exactly once.
func TestLossAndReordering(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			var handled, refused atomic.Int64
			n, a, b := ends(t, func(s *transaction.ServerTx) {
				handled.Add(1)
				if s.Request().IsInvite() {
					s.Respond(s.Response(180, ""))
					time.Sleep(50 * time.Millisecond)
					refused.Add(1)
					s.Respond(s.Response(486, ""))
					return
				}
				s.Respond(s.Response(200, ""))
			})
			defer a.stop()
			defer b.stop()
			n.Fate = lossy(seed, 300*time.Millisecond)
			const each = 300
			final := make(chan int, 2*each)
			for i := range 2 * each {
				m := []sip.RequestMethod{sip.INVITE, sip.OPTIONS}[i%2]
				req := request(m, "10.0.0.2")
				go func() {
					s := statuses(a.l.Request(t.Context(), req, udp(b)))
					if len(s) == 0 {
						s = []int{0}
					}
					final <- s[len(s)-1]
				}()
			}
			count := map[int]int{}
			for range 2 * each {
				count[<-final]++
			}
			if count[486] != each || count[200] != each || handled.Load() != 2*each {
				t.Errorf("seed %d: answers %v, %d handled", seed, count, handled.Load())
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			nothingKept(t, a, b)
			if b.ackCount() != 0 {
				t.Errorf("%d ACKs of refusals reached the user", b.ackCount())
			}
		})
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := make(chan string, 1)
		n, a, b := ends(t, func(s *transaction.ServerTx) {
			s.Respond(s.Response(180, ""))
			<-s.Cancelled()
			reason <- s.CancelReason()
			s.Respond(s.Response(487, ""))
		})
		defer a.stop()
		defer b.stop()
		sent := tap(n)
		tx := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		if r := <-tx.Responses(); r.StatusCode != 180 {
			t.Fatal(r)
		}
		tx.Cancel(`SIP;cause=200;text="Call completed elsewhere"`)
		tx.Cancel("again")
		if got := fmt.Sprint(statuses(tx)); got != "[487]" {
			t.Errorf("got %s", got)
		}
		if got := <-reason; !strings.Contains(got, "cause=200") {
			t.Errorf("reason %q", got)
		}
		synctest.Wait()
		if len(sent("CANCEL")) != 1 || len(sent("ACK")) != 1 {
			t.Errorf("%d CANCEL, %d ACK", len(sent("CANCEL")), len(sent("ACK")))
		}
	})
}

// TestCancelWaitsForASignOfLife: RFC 3261 §9.1.
func TestCancelWaitsForASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := ends(t, func(s *transaction.ServerTx) {
			time.Sleep(100 * time.Millisecond)
			s.Respond(s.Response(180, ""))
			<-s.Cancelled()
			s.Respond(s.Response(487, ""))
		})
		defer a.stop()
		defer b.stop()
		sent := tap(n)
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		tx := a.l.Request(ctx, request(sip.INVITE, "10.0.0.2"), udp(b))
		cancel()
		if got := fmt.Sprint(statuses(tx)); got != "[180 487]" {
			t.Errorf("got %s %v", got, tx.Err())
		}
		if got := since(begin, sent("CANCEL")); got != "100ms" {
			t.Errorf("CANCEL at %q", got)
		}
	})
}

// TestAnswerRacingACancelGoesThrough: what sipgo cannot do.
func TestAnswerRacingACancelGoesThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := ends(t, func(s *transaction.ServerTx) {
			s.Respond(s.Response(180, ""))
			<-s.Cancelled()
			if err := s.Respond(s.Response(200, "")); err != nil {
				t.Error(err)
			}
			if err := s.Respond(s.Response(487, "")); !errors.Is(err, transaction.ErrDone) {
				t.Errorf("487 after 200: %v", err)
			}
		})
		defer a.stop()
		defer b.stop()
		tx := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		<-tx.Responses()
		tx.Cancel("")
		if got := fmt.Sprint(statuses(tx)); got != "[200]" {
			t.Errorf("got %s", got)
		}
	})
}

// TestNobodyElseCancelsOrAnswers: same branch, other source.
func TestNobodyElseCancelsOrAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := make(chan bool, 1)
		n, a, b := ends(t, func(s *transaction.ServerTx) {
			s.Respond(s.Response(180, ""))
			select {
			case <-s.Cancelled():
				cancelled <- true
			case <-time.After(2 * time.Second):
				cancelled <- false
			}
			s.Respond(s.Response(486, ""))
		})
		defer a.stop()
		defer b.stop()
		evil := n.UDP("10.0.0.66:5060")
		defer evil.Close()
		var invite []byte
		n.Tap = func(_, _ netip.AddrPort, m []byte) {
			if bytes.HasPrefix(m, []byte("INVITE")) {
				invite = m
			}
		}
		tx := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		<-tx.Responses()
		forged := strings.ReplaceAll(string(invite), "INVITE", "CANCEL")
		evil.WriteToUDPAddrPort([]byte(forged), b.addr)
		m, _ := message.Parse(invite, false)
		res := message.NewResponse(m.(*sip.Request), 302, "", "evil")
		evil.WriteToUDPAddrPort(edge.Marshal(res), a.addr)
		if got := fmt.Sprint(statuses(tx)); got != "[486]" || <-cancelled {
			t.Errorf("a stranger had his way: %s", got)
		}
	})
}

func TestAckOfA2xx(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server *transaction.ServerTx
		n, a, b := ends(t, func(s *transaction.ServerTx) { server = s; s.Respond(s.Response(200, "")) })
		defer a.stop()
		defer b.stop()
		sent := tap(n)
		tx := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		res := <-tx.Responses()
		ack := sip.NewRequest(sip.ACK, sip.Uri{Scheme: "sip", User: "bob", Host: "10.0.0.2"})
		ack.AppendHeader(sip.HeaderClone(tx.Request().From()))
		ack.AppendHeader(sip.HeaderClone(res.To()))
		ack.AppendHeader(sip.HeaderClone(res.CallID()))
		ack.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: sip.ACK})
		ack.SetBody(nil)
		if err := tx.Ack(t.Context(), ack, udp(b)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if b.ackCount() != 1 {
			t.Fatalf("%d ACKs reached the user", b.ackCount())
		}
		// The 2xx comes again: acknowledged again, without its user.
		server.Respond(server.Response(200, ""))
		synctest.Wait()
		if b.ackCount() != 2 || len(tx.Responses()) != 0 {
			t.Errorf("%d ACKs, %d responses for the user", b.ackCount(), len(tx.Responses()))
		}
		// A second branch answers: that is the user's.
		other := server.Response(200, "")
		other.To().Params.Add("tag", "fork")
		server.Respond(other)
		if r := <-tx.Responses(); r.To().Params.GetOr("tag", "") != "fork" {
			t.Errorf("got %s", r.To().Value())
		}
		// Retransmitted INVITEs are absorbed in silence (RFC 6026 §8.7).
		before := len(sent("SIP/2.0 200"))
		var raw []byte
		n.Tap = nil
		raw = edge.Marshal(tx.Request())
		a.e.Write(raw, udp(b))
		synctest.Wait()
		if got := len(sent("SIP/2.0 200")); got != before {
			t.Errorf("%d answers to a retransmission", got-before)
		}
		// After 64×T1 a 2xx is a stray for the dialog to acknowledge.
		time.Sleep(33 * time.Second)
		b.e.Send(res, udp(a))
		synctest.Wait()
		if len(a.stray) != 1 {
			t.Errorf("%d strays", len(a.stray))
		}
		nothingKept(t, a, b)
	})
}

func TestKeepSendingUntilAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expired := make(chan bool, 1)
		stops := make(chan func(), 2)
		n, a, b := ends(t, func(s *transaction.ServerTx) {
			stops <- s.Accept(s.Response(200, ""), func() { expired <- true })
		})
		defer a.stop()
		defer b.stop()
		sent := tap(n)
		begin := time.Now()
		a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		<-expired
		if got := time.Since(begin); got != 32*time.Second {
			t.Errorf("expired after %s", got)
		}
		if got, want := since(begin, sent("SIP/2.0 200")), "0s 500ms 1.5s 3.5s 7.5s 11.5s 15.5s 19.5s 23.5s 27.5s 31.5s"; got != want {
			t.Errorf("200 at %s, want %s", got, want)
		}
		<-stops
		sent = tap(n)
		begin = time.Now()
		a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		time.Sleep(2 * time.Second)
		(<-stops)()
		time.Sleep(60 * time.Second)
		if got, want := since(begin, sent("SIP/2.0 200")), "0s 500ms 1.5s"; got != want || len(expired) != 0 {
			t.Errorf("200 at %s, want %s; expired %d", got, want, len(expired))
		}
	})
}

func TestTimerC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := ends(t, func(s *transaction.ServerTx) {
			s.Respond(s.Response(180, ""))
			<-s.Cancelled()
			s.Respond(s.Response(487, ""))
		})
		defer a.stop()
		defer b.stop()
		sent := tap(n)
		begin := time.Now()
		tx := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		if got := fmt.Sprint(statuses(tx)); got != "[180 487]" {
			t.Errorf("got %s", got)
		}
		if got := since(begin, sent("CANCEL")); got != "3m0s" {
			t.Errorf("CANCEL at %s", got)
		}
	})
}

// TestAUserThatNeverReadsHoldsUpNobody, and its final response is still there.
func TestAUserThatNeverReadsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := ends(t, func(s *transaction.ServerTx) {
			if s.Request().IsInvite() {
				for range 100 {
					s.Respond(s.Response(180, ""))
				}
				s.Respond(s.Response(486, ""))
				return
			}
			s.Respond(s.Response(200, ""))
		})
		defer a.stop()
		defer b.stop()
		deaf := a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b))
		synctest.Wait()
		if got := fmt.Sprint(statuses(a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), udp(b)))); got != "[200]" {
			t.Errorf("got %s", got)
		}
		if s := statuses(deaf); s[len(s)-1] != 486 {
			t.Errorf("got %v", s)
		}
	})
}

func TestOldPhonesMatch(t *testing.T) {
	for _, name := range []string{"inv2543", "badbranch"} {
		synctest.Test(t, func(t *testing.T) {
			raw, err := os.ReadFile("../edge/testdata/rfc4475/" + name + ".dat")
			if err != nil {
				t.Fatal(err)
			}
			var handled atomic.Int64
			n, a, b := ends(t, func(s *transaction.ServerTx) {
				handled.Add(1)
				s.Respond(s.Response(486, ""))
			})
			defer a.stop()
			defer b.stop()
			phone := n.UDP("10.0.0.9:5060")
			defer phone.Close()
			phone.WriteToUDPAddrPort(raw, b.addr)
			phone.WriteToUDPAddrPort(raw, b.addr)
			other := bytes.Replace(raw, []byte("Call-ID: "), []byte("Call-ID: other"), 1)
			phone.WriteToUDPAddrPort(other, b.addr)
			synctest.Wait()
			if handled.Load() != 2 {
				t.Errorf("%s: handled %d times, want twice: a retransmission, and another call", name, handled.Load())
			}
			if name == "inv2543" { // its ACK ends the retransmissions
				ack := bytes.ReplaceAll(raw, []byte("INVITE"), []byte("ACK"))
				phone.WriteToUDPAddrPort(ack, b.addr)
				time.Sleep(6 * time.Second)
				synctest.Wait()
				if s, _ := b.l.Open(); s != 1 || b.ackCount() != 0 {
					t.Errorf("%d open, %d ACKs with the user", s, b.ackCount())
				}
			}
		})
	}
}

func TestBroadcastResponseGoesNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw, err := os.ReadFile("../edge/testdata/rfc4475/bcast.dat")
		if err != nil {
			t.Fatal(err)
		}
		n, a, b := ends(t, nil)
		defer a.stop()
		defer b.stop()
		peer := n.UDP("10.0.0.9:5060")
		defer peer.Close()
		sent := tap(n)
		peer.WriteToUDPAddrPort(raw, b.addr)
		synctest.Wait()
		if len(b.stray) != 0 || len(sent("")) != 1 {
			t.Errorf("%d strays, %d datagrams", len(b.stray), len(sent("")))
		}
	})
}

// TestFullHouse: unanswered INVITEs from one source are capped, emergencies
// and other sources are not turned away, and answers free the places.
func TestFullHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		n, a, b := ends(t, func(s *transaction.ServerTx) { <-gate; s.Respond(s.Response(200, "")) },
			func(c *transaction.Config) {
				c.PerSource = 20
				c.Emergency = func(r *sip.Request) bool { return r.Recipient.User == "112" }
			})
		defer a.stop()
		defer b.stop()
		other := newEnd(t, n, "10.0.0.3:5060", nil)
		defer other.stop()
		var txs []*transaction.ClientTx
		for range 25 {
			txs = append(txs, a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), udp(b)))
		}
		// A phone that is told 503 leaves the node (RFC 3261 §21.5.4).
		if got := fmt.Sprint(statuses(a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b)))); got != "[480]" {
			t.Errorf("a call too many: %s", got)
		}
		urgent := request(sip.OPTIONS, "10.0.0.2")
		urgent.Recipient.User = "112"
		txs = append(txs, a.l.Request(t.Context(), urgent, udp(b)), other.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), udp(b)))
		time.Sleep(time.Second)
		close(gate)
		count := map[int]int{}
		for i, tx := range txs {
			s := statuses(tx)
			count[s[0]]++
			if i >= 25 && s[0] != 200 {
				t.Errorf("request %d: %v", i, s)
			}
		}
		if count[200] != 22 || count[500] != 5 {
			t.Errorf("got %v", count)
		}
		if got := fmt.Sprint(statuses(a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), udp(b)))); got != "[200]" {
			t.Errorf("places were not freed: %s", got)
		}
	})
}

func TestPanicIs500(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := ends(t, func(*transaction.ServerTx) { panic("a bug") })
		defer a.stop()
		defer b.stop()
		for _, m := range []sip.RequestMethod{sip.INVITE, sip.OPTIONS} {
			if got := fmt.Sprint(statuses(a.l.Request(t.Context(), request(m, "10.0.0.2"), udp(b)))); got != "[500]" {
				t.Errorf("%s: got %s", m, got)
			}
		}
	})
}

func TestBrokenConnectionIsNoticedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := ends(t, func(s *transaction.ServerTx) {})
		defer a.stop()
		tx := a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), tcp(b))
		synctest.Wait()
		begin := time.Now()
		b.stop()
		drain(tx)
		if !errors.Is(tx.Err(), transaction.ErrTransport) || time.Since(begin) != 0 {
			t.Errorf("%v after %s", tx.Err(), time.Since(begin))
		}
		refused := a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), tcp(b))
		drain(refused)
		if !errors.Is(refused.Err(), transaction.ErrTransport) {
			t.Errorf("nobody listens: %v", refused.Err())
		}
	})
}

func TestCallerWhoseConnectionBreaksHasCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan string, 1)
		_, a, b := ends(t, func(s *transaction.ServerTx) {
			s.Respond(s.Response(180, ""))
			<-s.Cancelled()
			gone <- s.CancelReason()
			s.Respond(s.Response(487, ""))
		})
		defer b.stop()
		<-a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), tcp(b)).Responses()
		a.stop()
		if got := <-gone; !strings.Contains(got, "Connection lost") {
			t.Errorf("reason %q", got)
		}
	})
}

func TestLargeRequestPrefersTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan site.Transport, 1)
		_, a, b := ends(t, func(s *transaction.ServerTx) { over <- s.Flow().Transport; s.Respond(s.Response(200, "")) })
		defer a.stop()
		for _, c := range []struct {
			size int
			tcp  bool
			want site.Transport
		}{{100, true, site.UDP}, {2000, true, site.TCP}, {2000, false, site.UDP}} {
			req := request(sip.MESSAGE, "10.0.0.2")
			req.SetBody(bytes.Repeat([]byte("x"), c.size))
			d := udp(b)
			d.TCP = c.tcp
			statuses(a.l.Request(t.Context(), req, d))
			if got := <-over; got != c.want {
				t.Errorf("%+v: over %s", c, got)
			}
		}
		b.stop()
	})
}

// TestUsersThatNeverAnswerLeaveNothing: an INVITE gets 480 in the end, other
// requests are forgotten when nobody waits any more.
func TestUsersThatNeverAnswerLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := ends(t, func(s *transaction.ServerTx) {
			if s.Request().IsInvite() {
				s.Respond(s.Response(180, ""))
			}
		}, func(c *transaction.Config) { c.TimerC = time.Minute; c.Total = 2 })
		defer a.stop()
		defer b.stop()
		begin := time.Now()
		silent := a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), udp(b))
		if got := fmt.Sprint(statuses(a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b)))); got != "[180 480]" {
			t.Errorf("got %s", got)
		}
		if got := time.Since(begin); got != 92*time.Second {
			t.Errorf("after %s", got)
		}
		if drain(silent); !errors.Is(silent.Err(), transaction.ErrTimeout) {
			t.Error(silent.Err())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		nothingKept(t, a, b)
		full := a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), udp(b))
		drain(full) // the places are free: it is taken, and never answered
		if !errors.Is(full.Err(), transaction.ErrTimeout) {
			t.Error("places were not freed")
		}
	})
}

// TestChallengesLeaveNothing, though the network loses a fifth, and their ACKs
// do not reach the user.
func TestChallengesLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := ends(t, func(s *transaction.ServerTx) {
			if err := s.Respond(s.Response(407, "")); err != nil {
				t.Error(err)
			}
			if err := s.Respond(s.Response(500, "")); !errors.Is(err, transaction.ErrDone) {
				t.Error(err)
			}
		})
		defer a.stop()
		defer b.stop()
		n.Fate = lossy(1, 0)
		for range 50 {
			if got := fmt.Sprint(statuses(a.l.Request(t.Context(), request(sip.INVITE, "10.0.0.2"), udp(b)))); got != "[407]" {
				t.Errorf("got %s", got)
			}
			synctest.Wait()
			if s, _ := b.l.Open(); s != 0 || b.ackCount() != 0 {
				t.Fatalf("%d transactions kept, %d ACKs with the user", s, b.ackCount())
			}
		}
	})
}

// TestQuickAndStateless: no transaction is kept, each retransmission is served
// anew, the rest of quick work may wait without holding up the socket.
func TestQuickAndStateless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		var x *end
		respond := func(r *sip.Request, f *edge.Flow, status int) { x.e.Respond(r, f, status, "") }
		_, a, b := ends(t, func(s *transaction.ServerTx) { s.Respond(s.Response(501, "")) }, func(c *transaction.Config) {
			c.Quick = map[sip.RequestMethod]func(*sip.Request, *edge.Flow) func(){
				sip.REGISTER: func(r *sip.Request, f *edge.Flow) func() {
					switch r.Recipient.User {
					case "wait":
						return func() { <-hold; respond(r, f, 202) }
					case "panic":
						panic("a bug")
					}
					respond(r, f, 200)
					return nil
				}}
			c.Stateless = map[sip.RequestMethod]func(*sip.Request, *edge.Flow){sip.PUBLISH: func(r *sip.Request, f *edge.Flow) { respond(r, f, 489) }}
		})
		x = b
		defer a.stop()
		defer b.stop()
		ask := func(m sip.RequestMethod, user string) *transaction.ClientTx {
			r := request(m, "10.0.0.2")
			r.Recipient.User = user
			return a.l.Request(t.Context(), r, udp(b))
		}
		slow := ask(sip.REGISTER, "wait")
		for _, c := range []struct {
			method sip.RequestMethod
			user   string
			want   string
		}{{sip.REGISTER, "bob", "[200]"}, {sip.REGISTER, "panic", "[500]"}, {sip.PUBLISH, "bob", "[489]"}, {sip.OPTIONS, "bob", "[501]"}} {
			if got := fmt.Sprint(statuses(ask(c.method, c.user))); got != c.want {
				t.Errorf("%s %s: got %s, want %s", c.method, c.user, got, c.want)
			}
		}
		if s, _ := b.l.Open(); s != 1 { // the OPTIONS
			t.Errorf("%d transactions", s)
		}
		close(hold)
		if got := fmt.Sprint(statuses(slow)); got != "[202]" {
			t.Errorf("got %s", got)
		}
	})
}
