package integration

import (
	"testing"

	"github.com/vishvananda/netlink"
)

func (e linkEnd) attrs(t *testing.T) *netlink.LinkAttrs {
	t.Helper()
	return must[netlink.Link](t, "link")(e.link()).Attrs()
}

// openWire opens the client's link to the gateway for packets of a family.
func openWire(t *testing.T, l *Lab, f Family) *rawWire {
	t.Helper()
	return openLink(t, linkEnd{l.Client, "eth0"}, linkEnd{l.Gateway, "eth0"}, f)
}

// openLink opens a link at one end, for packets to the other.
func openLink(t *testing.T, from, to linkEnd, f Family) *rawWire {
	t.Helper()
	w := must[*rawWire](t, "open link")(openRaw(from, to, f))
	t.Cleanup(func() { _ = w.close() })
	return w
}
