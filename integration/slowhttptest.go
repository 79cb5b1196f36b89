package integration

import (
	"context"
	"strconv"
	"time"
)

// SlowHTTPTest is an attack with slowhttptest(1): Slowloris, which opens
// connections and never finishes its requests.
type SlowHTTPTest struct {
	URL         string
	Connections int
	Rate        int           // connections a second
	Duration    time.Duration // after which it ends by itself; whole seconds
}

// SlowHTTPTest returns the command that attacks from inside the namespace, from
// its first address. It ends by itself, and at the latest some seconds after
// Duration.
func (n *Namespace) SlowHTTPTest(ctx context.Context, t SlowHTTPTest) *Command {
	seconds := max(1, int(t.Duration/time.Second))
	// timeout(1) bounds it even when the program waits for a dead connection.
	return n.Command(ctx, "timeout", strconv.Itoa(seconds+5),
		"slowhttptest", "-H",
		"-u", t.URL,
		"-c", strconv.Itoa(t.Connections),
		"-r", strconv.Itoa(t.Rate),
		"-l", strconv.Itoa(seconds),
		"-i", "1", // seconds between two headers
		"-p", "1") // seconds until the probe calls the server down
}
