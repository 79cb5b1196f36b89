package conntrack

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"nfqfw/internal/packet"
)

var update = flag.Bool("update", false, "write the golden files")

var trackedStates = []PeerState{Closed, SynSent, Established, Closing, FinWait2, TimeWait}

// The whole transition table, as a file to be reviewed: the sender's state down,
// the other side's across, for each kind of packet.
func TestTransitionsGolden(t *testing.T) {
	var b strings.Builder
	for _, flags := range []packet.Flags{
		packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.FIN, packet.FIN | packet.ACK,
		packet.RST, packet.RST | packet.ACK,
	} {
		for _, acks := range []bool{true, false} {
			if !flags.Has(packet.ACK) && !acks {
				continue
			}
			renderTransitions(&b, flags, acks)
		}
	}
	compareGolden(t, "testdata/transitions.txt", b.String())
}

func renderTransitions(b *strings.Builder, flags packet.Flags, acks bool) {
	what := map[bool]string{true: "acknowledges what is outstanding", false: "acknowledges something older"}[acks]
	if !flags.Has(packet.ACK) {
		what = "acknowledges nothing"
	}
	fmt.Fprintf(b, "%v, %s: sender:other\n%-13s", flags, what, "")
	for _, o := range trackedStates {
		fmt.Fprintf(b, " %-25s", o)
	}
	b.WriteString("\n")
	for _, p := range trackedStates {
		fmt.Fprintf(b, "%-13s", p)
		for _, o := range trackedStates {
			np, no := next(p, o, flags, acks, acks)
			fmt.Fprintf(b, " %-25s", np.String()+":"+no.String())
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

func TestTimeoutClassesGolden(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-13s", "")
	for _, dst := range trackedStates {
		fmt.Fprintf(&b, " %-16s", dst)
	}
	b.WriteString("\n")
	for _, src := range trackedStates {
		fmt.Fprintf(&b, "%-13s", src)
		for _, dst := range trackedStates {
			fmt.Fprintf(&b, " %-16s", timeoutClass(src, dst))
		}
		b.WriteString("\n")
	}
	compareGolden(t, "testdata/timeouts.txt", b.String())
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// pf.md 1.5, worked sequences: the states after each packet as server:client.
func TestWorkedSequences(t *testing.T) {
	for _, tt := range []struct{ name, packets, want string }{
		{"client closes first", "c:S s:SA c:A c:FA s:A s:FA c:A",
			"CLOSED:SYN_SENT SYN_SENT:ESTABLISHED ESTABLISHED:ESTABLISHED ESTABLISHED:CLOSING ESTABLISHED:FIN_WAIT_2 CLOSING:FIN_WAIT_2 FIN_WAIT_2:FIN_WAIT_2"},
		{"server closes first", "c:S s:SA c:A s:FA c:A c:FA s:A",
			"CLOSED:SYN_SENT SYN_SENT:ESTABLISHED ESTABLISHED:ESTABLISHED CLOSING:ESTABLISHED FIN_WAIT_2:ESTABLISHED FIN_WAIT_2:CLOSING FIN_WAIT_2:FIN_WAIT_2"},
		{"both close at once", "c:S s:SA c:A c:FA s:FA c:A",
			"CLOSED:SYN_SENT SYN_SENT:ESTABLISHED ESTABLISHED:ESTABLISHED ESTABLISHED:CLOSING CLOSING:FIN_WAIT_2 FIN_WAIT_2:FIN_WAIT_2"},
		{"reset", "c:S s:SA c:A s:R", "CLOSED:SYN_SENT SYN_SENT:ESTABLISHED ESTABLISHED:ESTABLISHED TIME_WAIT:TIME_WAIT"},
		{"refused", "c:S s:RA", "CLOSED:SYN_SENT TIME_WAIT:TIME_WAIT"},
		{"both open at once", "c:S s:S c:SA s:SA",
			"CLOSED:SYN_SENT SYN_SENT:SYN_SENT ESTABLISHED:SYN_SENT ESTABLISHED:ESTABLISHED"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src, dst := Closed, Closed
			want := strings.Fields(tt.want)
			for i, word := range strings.Fields(tt.packets) {
				from, flags, _ := strings.Cut(word, ":")
				if from == "c" {
					src, dst = next(src, dst, parseFlags(flags), true, true)
				} else {
					dst, src = next(dst, src, parseFlags(flags), true, true)
				}
				if got := dst.String() + ":" + src.String(); got != want[i] {
					t.Errorf("after %s: %s, want %s", word, got, want[i])
				}
			}
		})
	}
}

func parseFlags(letters string) packet.Flags {
	var f packet.Flags
	for _, c := range letters {
		f |= map[rune]packet.Flags{'S': packet.SYN, 'A': packet.ACK, 'F': packet.FIN, 'R': packet.RST}[c]
	}
	return f
}
