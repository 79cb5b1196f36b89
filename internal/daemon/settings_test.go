package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nfqfw/conntrack"
)

func TestOwnTimeouts(t *testing.T) {
	global := conntrack.Lifetimes{Timeouts: conntrack.DefaultTimeouts(), Scaling: conntrack.Scaling{Start: 60000, End: 120000}, SrcTrack: time.Second}
	for _, tt := range []struct {
		want   string
		change func(*conntrack.Lifetimes)
	}{
		{"", func(*conntrack.Lifetimes) {}},
		{"tcp.first 1 tcp.closed 0.5", func(l *conntrack.Lifetimes) {
			l.Timeouts[conntrack.TCPClosed], l.Timeouts[conntrack.TCPFirst] = time.Second/2, time.Second
		}},
		{"adaptive.start 60000 adaptive.end 120000", func(l *conntrack.Lifetimes) { l.OwnScaling = true }},
		{"adaptive.start 0 adaptive.end 0 src.track 10", func(l *conntrack.Lifetimes) {
			l.Scaling, l.OwnScaling, l.SrcTrack = conntrack.Scaling{}, true, 10*time.Second
		}},
		{"src.track 0", func(l *conntrack.Lifetimes) { l.SrcTrack = 0 }},
	} {
		l := global
		tt.change(&l)
		var words []string
		for name, value := range ownTimeouts(&l, &global) {
			words = append(words, fmt.Sprint(name, " ", value))
		}
		if got := strings.Join(words, " "); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
		for range ownTimeouts(&l, &global) {
			break // must not panic
		}
	}
}
