package integration

import (
	"context"
	"slices"
	"time"
)

// deed is something an operator does.
type deed struct {
	name string
	do   func(*soak, context.Context)
}

// gentle deeds leave the daemon that runs, rough ones do not.
var (
	gentle = []deed{{"reloads", (*soak).reload}, {"kills", (*soak).kill}, {"conntrack -F", (*soak).forget}}
	rough  = []deed{{"SIGTERM and start", (*soak).stopStart}, {"SIGKILL and start", (*soak).crash}, {"hand-overs", (*soak).handOver}}
)

// operate does one thing after the other until then, each as often, in random order. After
// each all sessions have to go on.
func (s *soak) operate(ctx context.Context, until time.Time, deeds []deed) {
	s.t.Helper()
	order := s.rand.Perm(len(deeds))
	for i := 0; time.Now().Before(until) && !s.t.Failed(); i++ {
		if i == len(order) {
			i, order = 0, s.rand.Perm(len(deeds))
		}
		d := deeds[order[i]]
		s.t.Logf("%s %s", time.Now().Format("15:04:05.000"), d.name)
		d.do(s, ctx)
		s.done[d.name]++
		if err := s.sessions.round(ctx); err != nil {
			s.t.Fatalf("%s: %v\n%s", d.name, err, s.fw.Log())
		}
		time.Sleep(operatorPause)
	}
}

func (s *soak) must(what string, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", what, err, s.fw.Log())
	}
}

func (s *soak) reload(ctx context.Context) {
	s.t.Helper()
	out, err := s.fw.Reload(ctx, soakConfig(s.rand))
	if err != nil {
		s.t.Fatalf("reload: %v: %s", err, out)
	}
}

// kill ends one session by the command, and opens another in its place.
func (s *soak) kill(ctx context.Context) {
	s.t.Helper()
	all := slices.DeleteFunc(s.sessions.all(), func(k *session) bool { return k.expected.Load() })
	k := all[s.rand.IntN(len(all))]
	k.expected.Store(true)
	from := addrPortOf(k.conn.LocalAddr()).Addr()
	out, err := s.fw.Command(ctx, "kill", from.String(), k.to.Addr().String())
	if err != nil {
		s.t.Fatalf("kill: %v: %s", err, out)
	}
	s.killed++
	i := slices.IndexFunc(s.servers, func(d *soaked) bool { return d.long == k.to })
	s.open(ctx, s.servers[i], from)
}

// forget has the kernel lose all it knows of connections, those under way included.
func (s *soak) forget(ctx context.Context) {
	s.t.Helper()
	out, err := s.lab.Gateway.Command(ctx, "conntrack", "-F").CombinedOutput()
	if err != nil {
		s.t.Fatalf("conntrack -F: %v %s", err, out)
	}
}

// stopStart has no daemon for a moment. Nothing is limited then, so attackers wait.
func (s *soak) stopStart(ctx context.Context) {
	s.t.Helper()
	s.attacks.Lock()
	defer s.attacks.Unlock()
	s.replaced.Lock()
	defer s.replaced.Unlock()
	defer s.honest.announce("SIGTERM")()
	s.must("stop", s.fw.Stop())
	time.Sleep(time.Duration(s.rand.IntN(300)) * time.Millisecond)
	s.must("start", s.fw.Start(ctx))
}

// crash has no daemon for a moment, and no new connections.
func (s *soak) crash(ctx context.Context) {
	s.t.Helper()
	s.replaced.Lock()
	defer s.replaced.Unlock()
	defer s.honest.announce("SIGKILL")()
	s.must("kill", s.fw.Kill())
	time.Sleep(time.Duration(s.rand.IntN(300)) * time.Millisecond)
	s.must("start", s.fw.Start(ctx))
}

func (s *soak) handOver(ctx context.Context) {
	s.t.Helper()
	s.replaced.Lock()
	defer s.replaced.Unlock()
	s.must("takeover", s.fw.Takeover(ctx))
}
