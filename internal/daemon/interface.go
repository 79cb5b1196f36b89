package daemon

import (
	"maps"
	"net"
	"sync"
)

// link is what the daemon knows of an interface.
type link struct {
	name string
	mtu  int // octets of an IP packet; 0: not known
}

// interfaces knows the interfaces by their indexes, as packets name them. It is
// safe for concurrent use.
type interfaces struct {
	mu    sync.RWMutex
	links map[uint32]link
}

func newInterfaces() *interfaces {
	n := &interfaces{}
	n.refresh()
	return n
}

// link is the interface of an index, the zero one if there is none.
func (n *interfaces) link(index uint32) link {
	if index == 0 {
		return link{}
	}
	n.mu.RLock()
	l, ok := n.links[index]
	n.mu.RUnlock()
	if !ok {
		n.refresh() // it is new
		n.mu.RLock()
		l = n.links[index]
		n.mu.RUnlock()
	}
	return l
}

// name is what the interface of an index was called when last looked at, "all" if there
// was none. It does not look itself: a listing may ask a million times.
func (n *interfaces) name(index uint32) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if l, ok := n.links[index]; ok {
		return l.name
	}
	return "all"
}

// exists says whether there is an interface of that name.
func (n *interfaces) exists(name string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, l := range n.links {
		if l.name == name {
			return true
		}
	}
	return false
}

// refresh asks the kernel: an interface may have been renamed, or its MTU changed.
// What the kernel does not tell stays as it was.
func (n *interfaces) refresh() {
	list, err := net.Interfaces()
	if err != nil {
		return
	}
	links := make(map[uint32]link, len(list))
	for _, i := range list {
		links[uint32(i.Index)] = link{i.Name, i.MTU}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !maps.Equal(links, n.links) {
		n.links = links
	}
}
