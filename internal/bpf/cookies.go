package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
)

// MaxListed is how many prefixes may be listed.
const MaxListed = 1 << 16

// Cookies have the kernel answer SYNs with cookies. It does so on interfaces to which the
// program is attached, while this process lives. They are not safe for concurrent use, but
// for Table, which has rules of its own.
type Cookies struct {
	Table *syncookie.Table

	answering answering
	program   *ebpf.Program
	maps      [3]*ebpf.Map // services and their header, cells, and who is listed
	mapped    [2][]byte    // the first two
	links     map[uint32]link.Link
}

// OpenCookies loads the program. It fails where the kernel has not got what it takes (Linux
// 6.6), and, with an error that wraps os.ErrPermission, for want of a privilege.
func OpenCookies(seed uint64) (*Cookies, error) {
	c := &Cookies{links: make(map[uint32]link.Link)}
	if err := c.open(seed); err != nil {
		return nil, errors.Join(fmt.Errorf("bpf: %w", err), c.Close())
	}
	return c, nil
}

func (c *Cookies) open(seed uint64) (err error) {
	for i, spec := range [...]ebpf.MapSpec{
		{Name: "nfqfw_services", Type: ebpf.Array, KeySize: 4, ValueSize: serviceSize, MaxEntries: syncookie.Services + 1, Flags: unix.BPF_F_MMAPABLE},
		{Name: "nfqfw_cells", Type: ebpf.Array, KeySize: 4, ValueSize: cellSize, MaxEntries: syncookie.Cells, Flags: unix.BPF_F_MMAPABLE},
		{Name: "nfqfw_listed", Type: ebpf.LPMTrie, KeySize: uint32(unsafe.Sizeof(listedKey{})), ValueSize: 1, MaxEntries: MaxListed, Flags: unix.BPF_F_NO_PREALLOC},
	} {
		if c.maps[i], err = ebpf.NewMap(&spec); err != nil {
			return err
		}
	}
	// Populated, so that the daemon's memory grows by its states only.
	for i, size := range [...]uint32{serviceSize * (syncookie.Services + 1), cellSize * syncookie.Cells} {
		if c.mapped[i], err = mapped(c.maps[i], int(size), unix.MAP_POPULATE); err != nil {
			return err
		}
	}
	services, header := c.mapped[0], &c.mapped[0][serviceSize*syncookie.Services]
	c.Table = syncookie.New(syncookie.Memory{
		Header:   (*syncookie.Header)(unsafe.Pointer(header)),
		Services: unsafe.Slice((*syncookie.Service)(unsafe.Pointer(&services[0])), syncookie.Services),
		Cells:    unsafe.Slice((*syncookie.Cell)(unsafe.Pointer(&c.mapped[1][0])), syncookie.Cells),
	}, seed)
	c.answering = answering{services: c.maps[0].FD(), cells: c.maps[1].FD(), listed: c.maps[2].FD(), seed: seed}
	c.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "nfqfw_answer", Type: ebpf.SchedCLS, Instructions: answers(c.answering), License: "GPL"})
	return err
}

// Sizes of what the maps hold, in octets.
const (
	serviceSize = uint32(unsafe.Sizeof(syncookie.Service{})) // and of the header
	cellSize    = uint32(unsafe.Sizeof(syncookie.Cell{}))
)

// listedKey is a prefix as the kernel's trie has it. IPv4 is mapped into IPv6.
type listedKey struct {
	bits uint32
	addr packet.Addr
}

func keyOf(p netip.Prefix) listedKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return listedKey{uint32(bits), packet.AddrFrom(p.Addr())}
}

// List has the kernel answer nobody of a prefix. It fails if there are MaxListed already.
func (c *Cookies) List(p netip.Prefix) error {
	key := keyOf(p)
	return c.maps[2].Put(unsafe.Pointer(&key), []byte{1})
}

// Unlist takes a prefix back that was listed.
func (c *Cookies) Unlist(p netip.Prefix) error {
	key := keyOf(p)
	return c.maps[2].Delete(unsafe.Pointer(&key))
}

// Attach has the kernel answer on an interface of the calling thread's network namespace, by
// its index. It must be one whose packets have Ethernet headers.
func (c *Cookies) Attach(ifindex uint32) error {
	if c.Attached(ifindex) {
		return nil
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: c.program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("bpf: attach to interface %d: %w", ifindex, err)
	}
	c.links[ifindex] = l
	return nil
}

// Attached says whether the kernel answers on an interface.
func (c *Cookies) Attached(ifindex uint32) bool {
	_, ok := c.links[ifindex]
	return ok
}

// Detach has the kernel answer no more on the interfaces for which done says true.
func (c *Cookies) Detach(done func(ifindex uint32) bool) (err error) {
	for ifindex, l := range c.links {
		if done(ifindex) {
			err = errors.Join(err, l.Close())
			delete(c.links, ifindex)
		}
	}
	return err
}

// Close has the kernel answer nobody, and lets the memory go. Nothing of it may be used any
// more, the table neither.
func (c *Cookies) Close() error {
	err := c.Detach(func(uint32) bool { return true })
	err = errors.Join(err, c.program.Close())
	for _, m := range c.maps {
		err = errors.Join(err, m.Close())
	}
	for i, b := range c.mapped {
		if b != nil {
			err = errors.Join(err, unix.Munmap(b))
			c.mapped[i] = nil
		}
	}
	return err
}
