package daemon

import (
	"net"
	"net/netip"

	"nfqfw/internal/backlog"
	"nfqfw/rules"
)

// refreshBacklogs tells the engine how many half-open connections the servers on
// this machine stand, for the adaptive rules that do not say it themselves. Of
// servers elsewhere nobody knows.
func (d *daemon) refreshBacklogs() {
	var unknown []*rules.Rule
	list := d.config.Load().Rules
	for i := range list {
		if r := &list[i]; r.State == rules.Adaptive && r.Backlog == 0 {
			unknown = append(unknown, r)
		}
	}
	if len(unknown) == 0 {
		return
	}
	listeners, err := backlog.Listeners()
	if err != nil {
		d.failures.Do(func() { d.log.Warn("the backlogs of this machine's servers are not known", "err", err) })
		return
	}
	local := localAddrs()
	for _, r := range unknown {
		d.engine.SetBacklog(r.Number, smallestBacklog(r, listeners, local))
	}
}

// localAddrs are the addresses of this machine but for those of loopback, which no
// rule is about. What the kernel does not tell is left out.
func localAddrs() (list []netip.Addr) {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			list = append(list, p.Addr().Unmap())
		}
	}
	return list
}

// smallestBacklog is that of the listening sockets in a rule's scope, or 0 if none is.
func smallestBacklog(r *rules.Rule, listeners []backlog.Listener, local []netip.Addr) int {
	smallest := 0
	for _, l := range listeners {
		if inScope(r, l, local) && (smallest == 0 || l.Backlog < smallest) {
			smallest = max(l.Backlog, 1)
		}
	}
	return smallest
}

// inScope says whether a connection that the rule matches can come to a socket.
func inScope(r *rules.Rule, l backlog.Listener, local []netip.Addr) bool {
	for _, a := range local {
		if serves(l, a) && r.Serves(netip.AddrPortFrom(a, l.Addr.Port())) {
			return true
		}
	}
	return false
}

// serves says whether a socket listens on an address of this machine.
func serves(l backlog.Listener, a netip.Addr) bool {
	at := l.Addr.Addr().Unmap()
	if !at.IsUnspecified() {
		return at == a
	}
	return at.Is4() == a.Is4() || at.Is6() && !l.V6Only
}
