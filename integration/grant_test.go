package integration

import (
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"nfqfw/internal/control"
)

// Far below its limit a client's connections are admitted in the kernel, and near it they
// are not: exactly as many as may be are held, however many come at a time.
func TestGranted(t *testing.T) {
	for _, policy := range []string{"keep", "adaptive"} {
		under(t, policy, places, Families, func(t *testing.T, policy string, at place, f Family) {
			const limit = 60
			g := guardWith(t, policyConfig(policy, webRule, limit), at, f, AcceptOptions{Echo: true})
			held, refused := 0, 0
			for range 20 {
				h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(1), To: g.srv.Addr(), N: 5})
				held, refused = held+h.Count(Held), refused+h.Count(Refused)
				if n := g.counted(g.source(1)); n != held {
					t.Errorf("%d count, %d are held", n, held)
				}
			}
			if held != limit || refused != 100-limit {
				t.Errorf("%d held, %d refused; want %d and %d", held, refused, limit, 100-limit)
			}
			if n := g.inKernel().Admitted; n < limit/3 || n > limit {
				t.Errorf("%d were admitted in the kernel", n)
			}
		})
	}
}

// inKernel is what the firewall says of what the kernel does by itself.
func (g *guarded) inKernel() control.InKernel {
	g.t.Helper()
	k := g.info().InKernel
	if !k.Active {
		g.t.Fatalf("the kernel admits nobody:\n%s", g.fw.Log())
	}
	return k
}

// What a daemon that was killed has granted holds no longer: nobody gets in whom nobody
// judges. The next one goes on.
func TestGrantsEndWithTheDaemon(t *testing.T) {
	under(t, "keep", places, Families[:1], func(t *testing.T, policy string, at place, f Family) {
		g := guardWith(t, policyConfig(policy, webRule, 60), at, f, AcceptOptions{Echo: true})
		hold := func(n int) int {
			h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(1), To: g.srv.Addr(), N: n, Timeout: time.Second})
			return h.Count(Held)
		}
		if n := hold(5) + hold(5); n != 10 || g.inKernel().Admitted == 0 {
			t.Fatalf("%d held, %d admitted in the kernel", n, g.inKernel().Admitted)
		}
		if err := g.fw.Kill(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause) // the kernel takes the programs out a moment after the process has ended
		if n := hold(3); n != 0 {
			t.Errorf("%d held, and nobody judges", n)
		}
		if err := g.fw.Start(g.ctx); err != nil {
			t.Fatal(err)
		}
		if n := hold(5) + hold(5); n != 10 || g.inKernel().Admitted == 0 {
			t.Errorf("after a restart: %d held, %d admitted in the kernel", n, g.inKernel().Admitted)
		}
	})
}

// Who does not want it is asked about every connection.
func TestNothingGranted(t *testing.T) {
	g := guardWith(t, "[daemon]\nbpf = \"never\"\n"+policyConfig("keep", webRule, 60), places[0], IPv4, AcceptOptions{Echo: true})
	for range 3 {
		g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(1), To: g.srv.Addr(), N: 5})
	}
	if k := g.info().InKernel; k.Active || k.Admitted > 0 {
		t.Errorf("%+v", k)
	}
}

// Where iptables has its legacy back end the kernel admits nobody, and closings are told of
// as ever.
func TestNothingGrantedByLegacyTables(t *testing.T) {
	Require(t, Program("iptables-legacy-restore"))
	ctx, l := testContext(t), newLab(t, Options{})
	legacy := []string{"env", "PATH=" + legacyTools(t) + ":" + os.Getenv("PATH")}
	fw := must[*Firewall](t, "firewall")(l.Gateway.StartFirewallThrough(ctx, legacy, must[string](t, "build")(program()), policyConfig("keep", webRule, 1)))
	stopAtEnd(t, fw)
	to := netip.AddrPortFrom(places[0].addr(IPv4), 80)
	must[*AcceptCounter](t, "server")(places[0].ns(l).CountAccepts(to, AcceptOptions{Echo: true, CloseOnEOF: true}))
	for i := range 3 {
		h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(IPv4, 0), To: to, N: 1})
		if h.Count(Held) != 1 {
			t.Fatalf("connection %d, and those before are closed: %v", i+1, h)
		}
		for _, c := range h.Conns() {
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}
	if k := must[control.Info](t, "info")(fw.Info(ctx)).InKernel; k.Admitted > 0 {
		t.Errorf("%+v", k)
	}
}
