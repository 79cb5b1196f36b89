package integration

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// manyReloads is how many come in a row.
const manyReloads = 50

// Many reloads in a row, each with another rule, fail no connection and leave nothing
// behind.
func TestManyReloads(t *testing.T) {
	t.Parallel() // it waits until hooks are taken out
	web := reloaded{"web", "eth0", 80, "synproxy", 3}
	brief := "[timeouts]\n\"tcp.closed\" = \"1s\"\n" // so that states of the traffic do not pile up
	g := guardWith(t, brief+web.config(), places[1], IPv4, AcceptOptions{Echo: true, CloseOnEOF: true})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	g.ctx = ctx
	end := traffic(g.ctx, t, g.lab, g.family, g.srv.Addr())
	g.reloads(brief + web.config())
	hooked, before := tables(t, g.lab), g.footprint()
	open := g.gets(0, 3)
	for i := range manyReloads {
		other := web
		other.name, other.port = fmt.Sprintf("rule %d", i), uint16(9000+i)
		g.reloads(brief + web.config() + other.config())
	}
	g.allEcho(open)
	g.isRefused(0, "after many reloads")
	g.reloads(brief + web.config())
	if Poll(g.ctx, func() bool { return tables(t, g.lab) == hooked }) != nil {
		checkTables(t, g.lab, "after many reloads", hooked)
	}
	end()
	spareDescriptors, spareThreads, spareKilobytes := spareFootprint()
	var after Footprint
	settled := func() bool { // a look at the hooks, or a set that is written, has pipes to a program
		after = g.footprint()
		return after.Descriptors <= before.Descriptors+spareDescriptors && after.Threads <= before.Threads+spareThreads && after.Kilobytes <= before.Kilobytes+spareKilobytes
	}
	short, stop := context.WithTimeout(g.ctx, 10*time.Second)
	defer stop()
	err := Poll(short, settled)
	t.Logf("before %+v, after %+v", before, after)
	if err != nil {
		t.Errorf("before %d reloads: %+v, after them: %+v", manyReloads, before, after)
	}
}
