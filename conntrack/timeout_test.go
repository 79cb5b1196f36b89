package conntrack

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestOverrides(t *testing.T) {
	global := Lifetimes{Timeouts: DefaultTimeouts(), Scaling: Scaling{60000, 120000}, SrcTrack: time.Second}
	for _, tt := range []struct {
		want   string
		change func(*Lifetimes)
	}{
		{"", func(*Lifetimes) {}},
		{"tcp.first 1 tcp.closed 0.5", func(l *Lifetimes) { l.Timeouts[TCPClosed], l.Timeouts[TCPFirst] = time.Second/2, time.Second }},
		{"adaptive.start 60000 adaptive.end 120000", func(l *Lifetimes) { l.OwnScaling = true }},
		{"adaptive.start 0 adaptive.end 0 src.track 10", func(l *Lifetimes) { l.Scaling, l.OwnScaling, l.SrcTrack = Scaling{}, true, 10*time.Second }},
		{"src.track 0", func(l *Lifetimes) { l.SrcTrack = 0 }},
	} {
		l := global
		tt.change(&l)
		var words []string
		for name, value := range l.Overrides(global) {
			words = append(words, fmt.Sprint(name, " ", value))
		}
		if got := strings.Join(words, " "); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
		for range l.Overrides(global) {
			break // must not panic
		}
	}
}
