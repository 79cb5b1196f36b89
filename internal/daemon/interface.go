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
	// ethernet says whether its packets have such headers.
	ethernet bool
	outside  bool // packets can leave this machine by it
}

// interfaces knows the interfaces by their indexes, as packets name them. It is
// safe for concurrent use.
type interfaces struct {
	mu    sync.RWMutex
	links map[uint32]link
	last  map[string]uint32 // the index that each name had last, of links that are there or not
	only  uint32            // index of the only link by which packets can leave this machine; 0: there are more, or none
	moved map[uint32]uint32 // old indexes, and the new ones of links with the same names, which nobody has taken yet
}

// etherAddrLen is how many octets the hardware address of an interface has if it is one of
// Ethernet; tunnels have none, or others.
const etherAddrLen = 6

// maxNames bounds the names that are remembered of interfaces that are not there.
const maxNames = 4096

func newInterfaces() *interfaces {
	n := &interfaces{last: make(map[string]uint32), moved: make(map[uint32]uint32)}
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

// sole is the index of the only interface by which packets can leave this machine, or 0.
func (n *interfaces) sole() uint32 {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.only
}

// onlyOutside looks for it.
func onlyOutside(links map[uint32]link) (index uint32) {
	for i, l := range links {
		switch {
		case !l.outside:
		case index != 0:
			return 0
		default:
			index = i
		}
	}
	return index
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
		outside := i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0
		links[uint32(i.Index)] = link{i.Name, i.MTU, outside && len(i.HardwareAddr) == etherAddrLen, outside}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !maps.Equal(links, n.links) {
		n.become(links)
	}
}

// become takes over what there is now. A link that has the name of one that is gone is
// taken for the same, made anew.
func (n *interfaces) become(links map[uint32]link) {
	n.links, n.only = links, onlyOutside(links)
	if len(n.last) > maxNames {
		clear(n.last)
	}
	for index, l := range links {
		before, known := n.last[l.name]
		if _, stays := links[before]; known && before != index && !stays {
			n.moved[before] = index
		}
		n.last[l.name] = index
	}
}

// takeMoved gives the indexes that have moved since it was last called, by the old ones.
func (n *interfaces) takeMoved() map[uint32]uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.moved) == 0 {
		return nil
	}
	taken := n.moved
	n.moved = make(map[uint32]uint32)
	return taken
}
