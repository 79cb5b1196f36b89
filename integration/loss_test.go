package integration

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
)

// What the kernel drops while the daemon does not keep up shows in info.
func TestInfoTellsOfLosses(t *testing.T) {
	config := "[daemon]\nqueues = 1\n" + fmt.Sprintf(webRule, "synproxy", 10)
	g := guardWith(t, config, places[0], IPv4, AcceptOptions{Echo: true, CloseOnEOF: true})
	g.teach(80) // else the server's answer to the first SYN would be one packet more
	g.waitSummary(g.source(1), "1 FIN_WAIT_2:FIN_WAIT_2")
	wire := openWire(t, g.lab, IPv4)
	g.expectNoLosses()
	if err := g.fw.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const room, sent = 16384, 20_000 // of the queue, and more
	for i := range sent {
		p := rawPacket{src: netip.AddrPortFrom(AbsentAddr(IPv4, i), 1024), dst: g.srv.Addr(), flags: flagSYN}
		if err := wire.send(p.octets()); err != nil {
			t.Error(err)
			break
		}
	}
	if err := g.fw.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	full, userFull := g.counter("queue-dropped"), g.counter("queue-user-dropped")
	// A signal takes its time: the daemon may read one more batch.
	const batch = 64
	if lost := full + userFull; lost > sent-room || lost < sent-room-batch {
		t.Errorf("queue-dropped %d, queue-user-dropped %d, and %d were too many", full, userFull, sent-room)
	}
}
