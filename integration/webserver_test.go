package integration

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestApache(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	Require(t, Program("apache2"), Program("curl"))
	var listen []netip.AddrPort
	for _, f := range Families {
		listen = append(listen, netip.AddrPortFrom(ServerAddr(f), 80))
	}
	a := must[*Apache](t, "apache")(l.Server.StartApache(ctx, ApacheOptions{Listen: listen, MaxRequestWorkers: 10}))
	for _, to := range listen {
		out := must[[]byte](t, "curl")(l.Client.Command(ctx, "curl", "-sSg", "http://"+to.String()+"/").Output())
		if string(out) != Page {
			t.Errorf("got %q", out)
		}
	}
	for i, f := range Families {
		from := ClientAddr(f, 2)
		l.Client.Hold(ctx, HoldOptions{From: from, To: listen[i], N: 2, Send: []byte("GET / HTTP/1.1\r\n"), Silence: 50 * time.Millisecond, Concurrency: 2})
		if n := must[int](t, "busy")(a.BusyWith(from)); n != 2 {
			t.Errorf("%v: %d workers busy, want 2", f, n)
		}
		st := must[ApacheStatus](t, "status")(a.Status(ctx))
		if st.Clients[from] != 2 || st.Clients[netip.MustParseAddr("127.0.0.1")] != 1 || len(st.Scoreboard) != 10 {
			t.Errorf("%v: status %+v", f, st)
		}
	}
	if n := must[int](t, "workers")(a.Workers()); n < 5 || n > 10 {
		t.Errorf("%d workers", n)
	}
	_ = a.Stop()
	if left := must[[]int](t, "processes")(processes(l.Server.handle)); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

func TestNginx(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	Require(t, Program("nginx"))
	to := netip.AddrPortFrom(GatewayAddr(IPv6), 8080)
	must[*Nginx](t, "nginx")(l.Gateway.StartNginx(ctx, to))
	resp, err := l.Client.HTTPClient(ClientAddr(IPv6, 4)).Get("http://" + to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if page, _ := io.ReadAll(resp.Body); string(page) != Page {
		t.Errorf("got %q", page)
	}
	// A server that cannot start says why.
	if _, err = l.Gateway.StartNginx(ctx, to); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("started twice on one address: %v", err)
	}
	_, err = l.Gateway.StartNginx(ctx, netip.AddrPortFrom(ServerAddr(IPv4), 80))
	if err == nil || !strings.Contains(err.Error(), "bind() to 192.0.2.10:80") {
		t.Errorf("started on another's address: %v", err)
	}
}

func TestSlowHTTPTest(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	Require(t, Program("slowhttptest"))
	srv := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(netip.AddrPortFrom(ServerAddr(IPv4), 80), AcceptOptions{}))
	c := l.Client.SlowHTTPTest(ctx, SlowHTTPTest{URL: "http://" + srv.Addr().String() + "/", Connections: 20, Rate: 200, Duration: time.Second})
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	_ = c.Run() // it says with its status whether the server went down
	if srv.Count() < 20 {
		t.Errorf("%d accepted, want 20:\n%s", srv.Count(), out.String())
	}
}
