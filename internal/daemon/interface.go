package daemon

import (
	"maps"
	"net"
	"slices"
	"sync"
)

// interfaceNames knows the interfaces by their indexes, as packets name them.
// It is safe for concurrent use.
type interfaceNames struct {
	mu    sync.RWMutex
	names map[uint32]string
}

func newInterfaceNames() *interfaceNames {
	n := &interfaceNames{}
	n.refresh()
	return n
}

// name is the name of an interface, "" if there is none of that index.
func (n *interfaceNames) name(index uint32) string {
	if index == 0 {
		return ""
	}
	n.mu.RLock()
	name, ok := n.names[index]
	n.mu.RUnlock()
	if !ok {
		n.refresh() // it is new
		n.mu.RLock()
		name = n.names[index]
		n.mu.RUnlock()
	}
	return name
}

// exists says whether there is an interface of that name.
func (n *interfaceNames) exists(name string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Contains(slices.Collect(maps.Values(n.names)), name)
}

// refresh asks the kernel: an interface may have been renamed. What the kernel
// does not tell stays as it was.
func (n *interfaceNames) refresh() {
	list, err := net.Interfaces()
	if err != nil {
		return
	}
	names := make(map[uint32]string, len(list))
	for _, i := range list {
		names[uint32(i.Index)] = i.Name
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !maps.Equal(names, n.names) {
		n.names = names
	}
}
