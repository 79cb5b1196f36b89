package nfq

import (
	"bytes"
	"encoding/binary"
	"testing"

	"nfqfw/internal/nfnetlink"
	"nfqfw/internal/packet"
)

// packetMessage is the body of a packet message with the given attributes.
func packetMessage(attrs ...[]byte) []byte {
	b := []byte{2, 0, 0, 7} // AF_INET, version 0, queue 7
	for _, a := range attrs {
		b = append(b, a...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func attr(typ uint16, value ...byte) []byte {
	return append(appendAttr(nil, typ, len(value)), value...)
}

func TestParse(t *testing.T) {
	header := attr(attrPacketHdr, 0, 0, 1, 2, 8, 0, 3) // id 258, IPv4, OUTPUT
	tests := []struct {
		name string
		body []byte
		want Message
		ok   bool
	}{
		{"empty", nil, Message{}, false},
		{"no packet header", packetMessage(attr(attrPayload, 1, 2)), Message{Payload: []byte{1, 2}, Total: 2}, false},
		{"header alone", packetMessage(header), Message{ID: 258}, true},
		{"short header", packetMessage(attr(attrPacketHdr, 0, 0, 1, 2)), Message{}, false},
		{"all", packetMessage(header,
			attr(attrMark, 0x80, 0, 0, 5), attr(attrInDev, 0, 0, 0, 2),
			attr(attrSkbInfo, 0, 0, 0, 7), attr(attrCapLen, 0, 0, 1, 0), attr(99, 1), attr(attrPayload, 9, 9, 9)),
			Message{ID: 258, Mark: 0x80000005, InDev: 2, Total: 256, Payload: []byte{9, 9, 9},
				GSO: true, ChecksumNotReady: true, ChecksumNotVerified: true}, true},
		{"cut", packetMessage(header, attr(attrPayload, 9, 9, 9, 9))[:20], Message{ID: 258}, true},
		{"length 0", packetMessage(header, []byte{0, 0, 3, 0}), Message{ID: 258}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Message{ID: 9, Mark: 9, Total: 9, verdict: packet.Pass}
			if ok := got.parse(tt.body); ok != tt.ok {
				t.Errorf("ok %v", ok)
			}
			if !bytes.Equal(got.Payload, tt.want.Payload) {
				t.Errorf("payload %x", got.Payload)
			}
			got.Payload, tt.want.Payload = nil, nil
			if !same(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func same(a, b Message) bool {
	a.Payload, b.Payload = nil, nil
	return a.ID == b.ID && a.Total == b.Total && a.Mark == b.Mark && a.InDev == b.InDev &&
		a.GSO == b.GSO && a.ChecksumNotReady == b.ChecksumNotReady &&
		a.ChecksumNotVerified == b.ChecksumNotVerified && a.verdict == b.verdict && a.mark == b.mark
}

func TestAppendVerdict(t *testing.T) {
	tests := []struct {
		name     string
		mark     packet.Mark
		verdict  packet.Verdict
		set      packet.Mark
		wantLen  int
		wantMark packet.Mark
	}{
		{"drop sets no mark", 5, packet.Drop, packet.MarkTrack, 32, 0},
		{"same mark", 5, packet.Pass, 0, 32, 0},
		{"user's bits stay", 0x80000005, packet.Pass, packet.MarkTrack, 40, 0x20000005},
		{"ours go", 0x80000005, packet.Pass, 0, 40, 5},
		{"not beyond the mask", 5, packet.Pass, 0x20000008, 40, 0x20000005},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := Message{ID: 258, Mark: tt.mark}
			m.Answer(tt.verdict, tt.set)
			b := appendVerdict([]byte("xxxx"), msgVerdict, 7, &m)[4:]
			answer, rest, ok := nfnetlink.Next(b)
			body := answer.Body
			if !ok || answer.Type != msgVerdict || len(rest) != 0 || len(b) != tt.wantLen {
				t.Fatalf("%x", b)
			}
			if got := binary.BigEndian.Uint32(body[8:]); got != uint32(tt.verdict) {
				t.Errorf("verdict %d", got)
			}
			if tt.wantLen == 40 && binary.BigEndian.Uint32(body[20:]) != uint32(tt.wantMark) {
				t.Errorf("%x", body)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packetMessage(attr(attrPacketHdr, 0, 0, 1, 2, 8, 0, 3), attr(attrPayload, 1, 2, 3)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		m.parse(b)
		if m.Total < len(m.Payload) {
			t.Fatalf("%+v", m)
		}
		m.parseLog(b)
		for rest := b; len(rest) > 0; {
			_, next, ok := nfnetlink.Next(rest)
			if !ok {
				return
			}
			if len(next) >= len(rest) {
				t.Fatal("no progress")
			}
			rest = next
		}
	})
}
