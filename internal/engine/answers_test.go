package engine

import (
	"net/netip"
	"testing"
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// answering is an engine with a kernel that answers SYNs where it may.
type answering struct {
	*Engine
	t      *testing.T
	kernel *syncookie.Table
	now    time.Duration
	d      Decision
}

// serverOptions are what the server of the tests has.
var serverOptions = packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true, HasTimestamp: true}

// newAnswering has learned what the server can do, and has the kernel answer.
func newAnswering(t *testing.T, mode synproxy.CookieMode, list ...rules.Rule) *answering {
	t.Helper()
	a := &answering{t: t, kernel: syncookie.New(syncookie.NewModel(), 42), now: time.Minute}
	c := grantingConfig(list...)
	c.Cookies = mode
	a.Engine = New(c, scenarioSeeds)
	a.SetAnswers(a.kernel, time.Hour)
	a.servers.Learn(clientTuple(someClient, 1), serverOptions, serverOptions, a.now)
	return a
}

func synOf(client string, port uint16) *packet.Packet {
	p := &packet.Packet{Tuple: clientTuple(client, port), Seq: 100, Flags: packet.SYN, InDev: 1, InName: "eth0"}
	p.Options = packet.Options{MSS: 1400, HasWScale: true, WScale: 7, SACKPermitted: true}
	return p
}

// answers says whether the kernel answers a SYN now.
func (a *answering) answersSYN(p *packet.Packet) bool {
	_, ok := a.kernel.Answer(a.now+time.Hour, p)
	return ok
}

func (a *answering) expect(what string, p *packet.Packet, want bool) {
	a.t.Helper()
	if got := a.answersSYN(p); got != want {
		a.t.Errorf("%s: answered in the kernel: %v", what, got)
	}
}

// asked has the engine judge a SYN.
func (a *answering) asked(p *packet.Packet) {
	a.t.Helper()
	a.now += answerPause
	a.Handle(a.now, p, &a.d)
}

func (a *answering) tick() {
	a.now += 100 * time.Millisecond
	a.Tick(a.now, func(*Decision) {})
}

var webRule = rules.Rule{Name: "web", State: rules.Synproxy, MaxSrcConn: 2}

// After one SYN was answered with a cookie the kernel answers the others, until nobody puts
// the end off, and no longer than the engine would.
func TestAnswers(t *testing.T) {
	p, other := synOf(someClient, 4000), synOf("203.0.113.9", 5000)
	for _, tt := range []struct {
		name string
		mode synproxy.CookieMode
		rule rules.Rule
		end  func(a *answering)
		want bool
	}{
		{"it lapses", synproxy.CookiesAlways, webRule, func(a *answering) { a.now += answerLife }, false},
		{"it is put off", synproxy.CookiesAlways, webRule, func(a *answering) {
			for range 20 {
				a.tick()
			}
		}, true},
		{"withdrawn", synproxy.CookiesAlways, webRule, func(a *answering) { a.Withdraw(a.now) }, false},
		{"draining", synproxy.CookiesAlways, webRule, func(a *answering) { a.Drain(a.now) }, false},
		{"off", synproxy.CookiesAlways, webRule, func(a *answering) { a.Answering(a.now, false); a.asked(p) }, false},
		{"off and on", synproxy.CookiesAlways, webRule, func(a *answering) { a.Answering(a.now, false); a.Answering(a.now, true); a.asked(p) }, true},
		{"the server has changed", synproxy.CookiesAlways, webRule, func(a *answering) {
			a.servers.Learn(p.Tuple, serverOptions, packet.Options{MSS: 1460}, a.now)
			a.tick()
		}, false},
		{"timestamps", synproxy.CookiesAlways, webRule, func(a *answering) { a.SetTimestamps(true); a.tick() }, false},
		{"the rule is full", synproxy.CookiesAlways, rules.Rule{State: rules.Synproxy, Max: 1}, func(a *answering) { a.rules.Load().byNumber[0].admitted.Add(1); a.tick() }, false},
		{"another ruleset", synproxy.CookiesAlways, webRule, func(a *answering) { a.Reload(a.now, grantingConfig(webRule)); a.tick() }, false},
		{"another interface", synproxy.CookiesAlways, webRule, func(*answering) { q := *other; q.InDev = 2; other = &q }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other = synOf("203.0.113.9", 5000)
			a := newAnswering(t, tt.mode, tt.rule)
			a.expect("before any SYN", other, false)
			a.asked(p)
			if len(a.d.Segments()) != 1 || a.Len() != 0 {
				t.Fatalf("no cookie: %+v", a.d)
			}
			a.expect("after one", other, true)
			if !a.AnswersBegun() || a.AnswersBegun() {
				t.Error("that it has begun is not told once")
			}
			tt.end(a)
			a.expect(tt.name, other, tt.want)
		})
	}
}

// The kernel is let answer for nobody whom the engine would not answer with a cookie.
func TestAnswersNot(t *testing.T) {
	from := func(prefix string) rules.Addresses {
		return rules.Addresses{Prefixes: rules.Prefixes{{Prefix: netip.MustParsePrefix(prefix)}}}
	}
	for _, tt := range []struct {
		name string
		mode synproxy.CookieMode
		list []rules.Rule
	}{
		{"no pressure", synproxy.CookiesAdaptive, []rules.Rule{webRule}},
		{"never", synproxy.CookiesNever, []rules.Rule{webRule}},
		{"keep", synproxy.CookiesAlways, []rules.Rule{{State: rules.Keep}}},
		{"adaptive, without pressure", synproxy.CookiesAlways, []rules.Rule{{State: rules.Adaptive}}},
		{"named", synproxy.CookiesAlways, []rules.Rule{{State: rules.Synproxy, From: from("198.51.100.0/24")}}},
		{"a block rule that only counts", synproxy.CookiesAlways, []rules.Rule{webRule, {Action: rules.Block, CountOnly: true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAnswering(t, tt.mode, tt.list...)
			a.asked(synOf(someClient, 4000))
			a.expect(tt.name, synOf("203.0.113.9", 5000), false)
		})
	}
	t.Run("large sources", func(t *testing.T) {
		a := newAnswering(t, synproxy.CookiesAlways, webRule)
		a.rules.Load().byNumber[0].SourcePrefixV4 = 24
		a.asked(synOf(someClient, 4000))
		a.expect("large sources", synOf("203.0.113.9", 5000), false)
	})
}

// All counters have what the kernel has answered.
func TestAnswersCount(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAlways, webRule)
	a.asked(synOf(someClient, 4000))
	for port := range uint16(10) {
		a.expect("a stranger", synOf("203.0.113.9", 5000+port), true)
	}
	a.Withdraw(a.now)
	a.CountAnswers(a.now)
	c := a.Counters()
	if c.CookiesSent.Load() != 11 || c.CookiesInKernel.Load() != 10 || c.Reasons[packet.ReasonSynproxy].Load() != 11 || a.Total().HalfOpen != 11 {
		t.Errorf("%d cookies, %d of the kernel, %d dropped, %d half-open", c.CookiesSent.Load(), c.CookiesInKernel.Load(), c.Reasons[packet.ReasonSynproxy].Load(), a.Total().HalfOpen)
	}
}

// The room of a service is another's only when it was at rest.
func TestAnswersRest(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAlways, webRule)
	p := synOf(someClient, 4000)
	a.asked(p)
	q := *p
	for q.DstPort++; a.kernel.Index(&q.Tuple, 1) != a.kernel.Index(&p.Tuple, 1); q.DstPort++ {
	}
	a.servers.Learn(q.Tuple, serverOptions, serverOptions, a.now)
	stranger := q
	stranger.SrcPort++
	a.asked(&q)
	a.expect("in another's room", &stranger, false)
	a.Withdraw(a.now)
	a.asked(&q)
	a.expect("in another's room, which was just left", &stranger, false)
	a.now += syncookie.Rest
	a.asked(&q)
	a.expect("in its own room", &stranger, true)
}

// ack repeats the cookie that the kernel has made for a SYN.
func (a *answering) ack(p *packet.Packet) *packet.Packet {
	a.t.Helper()
	told, ok := a.kernel.Answer(a.now+time.Hour, p)
	if !ok {
		a.t.Fatalf("%v is not answered in the kernel", p.Tuple)
	}
	synack := syncookie.SYNACK(a.kernel.Jar(), p, told)
	return &packet.Packet{Tuple: p.Tuple, Seq: p.Seq + 1, Ack: synack.Seq + 1, Flags: packet.ACK, Conn: packet.ConnNew, InDev: 1, InName: "eth0"}
}

// A client that the kernel has answered comes to the server as if the engine had, also if
// another SYN of the same tuple waits.
func TestAnswersOvertake(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAdaptive, webRule)
	p := synOf(someClient, 4000)
	a.asked(p) // remembered: there is no pressure yet
	if a.Len() != 1 {
		t.Fatal("no state")
	}
	a.total.on.Store(true)
	a.asked(synOf("203.0.113.9", 5000))
	again := *p
	again.Seq = 7777
	a.asked(a.ack(&again))
	segments := a.d.Segments()
	if len(segments) != 1 || segments[0].Flags != packet.SYN || segments[0].Seq != again.Seq {
		t.Fatalf("the server is not asked: %+v", a.d)
	}
	if err := a.Recount(); err != nil {
		t.Error(err)
	}
	// Now it is known, and has a state: the tuple is the engine's affair, another is not.
	a.expect("a tuple that has a state", &again, false)
	other := *p
	other.SrcPort++
	a.expect("another tuple of the client's", &other, true)
	a.asked(a.ack(&other))
	third := *p
	third.SrcPort += 2
	a.expect("one too many", &third, false)
	a.expect("a stranger", synOf("203.0.113.9", 5001), true)
}

// Where a rule has as many sources as it may, the next one's SYN is refused: by the engine.
func TestAnswersNoMoreSources(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAlways, rules.Rule{State: rules.Synproxy, MaxSrcNodes: 1})
	p := synOf(someClient, 4000)
	a.asked(p)
	q := synOf(someClient, 4001)
	a.asked(a.ack(q))
	a.tick()
	a.expect("a second source", synOf("203.0.113.9", 5000), false)
}

// While packets come faster than they are judged SYNs are answered with cookies, for a second
// at least, and for as long as many are half-open.
func TestOverrun(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAdaptive, webRule)
	p := synOf(someClient, 4000)
	a.Overrun(a.now)
	began := a.now
	for {
		stays := a.now < began+overrunTime
		a.asked(p)
		if cookies := a.Len() == 0; cookies != stays {
			t.Fatalf("after %v: cookies %v", a.now-began, cookies)
		}
		if !stays {
			break
		}
		a.tick()
	}
	never := newAnswering(t, synproxy.CookiesNever, webRule)
	never.Overrun(never.now)
	if never.asked(p); never.Len() != 1 {
		t.Error("cookies, and the mode is never")
	}
}

// A reload that changes a limit changes who is answered.
func TestAnswersOtherLimit(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAlways, webRule)
	p := synOf(someClient, 4000)
	a.asked(p)
	a.asked(a.ack(synOf(someClient, 4001)))
	a.expect("one of two", synOf(someClient, 4002), true)
	stricter := webRule
	stricter.MaxSrcConn = 1
	c := grantingConfig(stricter)
	c.Cookies = synproxy.CookiesAlways
	a.Reload(a.now, c)
	a.Withdraw(a.now)
	a.now += syncookie.Rest
	a.asked(synOf("203.0.113.9", 5000))
	a.expect("a stranger", synOf("203.0.113.9", 5001), true)
	a.expect("one of one", synOf(someClient, 4002), false)
}

// Where the kernel has answered nobody, a cookie that is not the state's is an older SYN's.
func TestAnswersOlderSYN(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAdaptive, webRule)
	p := synOf(someClient, 4000)
	a.asked(p)
	old := a.d.Segments()[0].Seq
	again := *p
	again.Seq = 7777
	a.asked(&again)
	a.asked(&packet.Packet{Tuple: p.Tuple, Seq: p.Seq + 1, Ack: old + 1, Flags: packet.ACK, Conn: packet.ConnNew, InDev: 1, InName: "eth0"})
	if s := a.d.Segments(); len(s) != 1 || !s[0].Flags.Has(packet.RST) || a.Len() != 1 {
		t.Errorf("%d states, and the ACK of the older SYN is answered with %+v", a.Len(), s)
	}
}

// From the tick on that had many ACKs without a cookie the kernel drops such, and only such,
// until a tick has few. They are counted as if they had been judged.
func TestDemands(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAlways, webRule)
	a.asked(synOf(someClient, 4000))
	forged := synOf("203.0.113.9", 5000)
	forged.Flags, forged.Ack, forged.Conn = packet.ACK, 7, packet.ConnNew
	drops := func(p *packet.Packet) bool { return a.kernel.Unproven(a.now+time.Hour, p) }
	judge := func(n int) {
		for range n {
			a.Handle(a.now, forged, &a.d)
		}
		a.tick()
	}
	if judge(manyUnproven - 1); drops(forged) {
		t.Error("dropped, and there were few")
	}
	if judge(manyUnproven); !drops(forged) {
		t.Error("judged, and there were many")
	}
	proof := *forged
	proof.Ack = a.jar.Bake(proof.Tuple, proof.Seq-1, packet.Options{}) + 1
	if drops(&proof) {
		t.Error("a cookie is dropped")
	}
	before := a.counters.CookiesInvalid.Load()
	for range manyUnproven {
		drops(forged)
	}
	if a.tick(); a.counters.CookiesInvalid.Load() != before+manyUnproven+1 || !drops(forged) {
		t.Errorf("%d of %d are counted, and it is no flood any more", a.counters.CookiesInvalid.Load()-before, manyUnproven+1)
	}
	if a.tick(); drops(forged) {
		t.Error("dropped, and the flood is over")
	}
}

// A cookie of the kernel's that comes back is not out any more, however soon that is.
func TestAnswersComeBack(t *testing.T) {
	a := newAnswering(t, synproxy.CookiesAlways, webRule)
	a.asked(synOf(someClient, 4000))
	var acks []*packet.Packet
	for port := range uint16(50) {
		acks = append(acks, a.ack(synOf("203.0.113.9", 5000+port)))
	}
	for _, ack := range acks {
		a.Handle(a.now, ack, &a.d)
	}
	a.tick()
	if valid, out := a.counters.CookiesValid.Load(), a.total.cookies[0].out(); valid != 50 || out != 1 {
		t.Errorf("%d of 50 have come back, and %d are out, want that of the first client", valid, out)
	}
}
