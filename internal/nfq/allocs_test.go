package nfq

import (
	"testing"

	"nfqfw/internal/packet"
)

// From the kernel's message to the verdict's nothing is allocated but what the handler
// allocates.
func TestNoAllocations(t *testing.T) {
	body := packetMessage(attr(attrPacketHdr, 0, 0, 1, 2, 8, 0, 3), attr(attrPayload, 1, 2, 3))
	answers := make([]byte, 0, verdictLen)
	for _, verdict := range []packet.Verdict{packet.Drop, packet.Pass} {
		n := testing.AllocsPerRun(100, func() {
			var m Message
			if !m.parse(body) {
				t.Fatal("not parsed")
			}
			m.Answer(verdict, packet.MarkTrack)
			answers = appendVerdict(answers[:0], msgVerdict, 7, &m)
		})
		if n != 0 {
			t.Errorf("%v: %v allocations", verdict, n)
		}
	}
}
