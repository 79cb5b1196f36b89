package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// There is a line for the first loss, and one a minute while it goes on, which has all
// that came since.
func TestLossesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := (&daemon{log: slog.New(slog.NewTextHandler(&log, nil))}).newLossTeller()
		expect := func(o overflow, want ...string) {
			t.Helper()
			log.Reset()
			l.tell(o)
			if n := strings.Count(log.String(), "\n"); n != min(len(want), 1) {
				t.Errorf("%+v: %d lines:\n%s", o, n, &log)
			}
			for _, words := range want {
				if !strings.Contains(log.String(), words) {
					t.Errorf("%+v: no %q in %s", o, words, &log)
				}
			}
		}
		expect(overflow{})
		expect(overflow{queue: 3, socket: 4}, "packets=7 queue_dropped=3 queue_user_dropped=4")
		expect(overflow{queue: 3, socket: 4})
		expect(overflow{queue: 5, socket: 4})
		time.Sleep(lossInterval)
		expect(overflow{queue: 6, socket: 4}, "packets=3 ")
		time.Sleep(lossInterval)
		expect(overflow{queue: 6, socket: 4})
		expect(overflow{queue: 1})
		expect(overflow{queue: 2}, "packets=1 ")
	})
}
