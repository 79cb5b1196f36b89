package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"nfqfw/internal/grant"
)

// root is where the file system of bpf is mounted on any machine that has it.
const root = "/sys/fs/bpf"

// pins are the names of the programs in the directory of a network namespace. All but the
// one that records say what they say while the daemon lives.
var pins = [4]string{"opens", "admits", "records", "unproven"}

// The maps, in the order of Files.
const (
	grantsMap  = iota // the memory of the grants
	closingMap        // of FINs
	answersMap        // of answers
	ringMap
	livingMap // the programs that say something while the daemon lives

	// FileCount is how many Files there are.
	FileCount
)

// Programs are what is loaded into the kernel.
type Programs struct {
	Grants *grant.Table
	Ring   *Ring

	dir    string
	loaded [len(pins)]*ebpf.Program
	memory []byte
	header *grant.Header
	slots  []grant.Slot
	maps   []*ebpf.Map
}

// Open loads the programs, and mounts the file system for their pins. It goes on with the
// maps of another process, if there are such, as Files gives them. The seed is for memory
// that is new. It fails with an error that wraps os.ErrPermission for want of a privilege.
func Open(seed uint64, inherited []*os.File) (*Programs, error) {
	p, err := open(seed, inherited)
	if err != nil {
		return nil, fmt.Errorf("bpf: %w", err)
	}
	return p, nil
}

func open(seed uint64, inherited []*os.File) (_ *Programs, err error) {
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) != 1 {
		return nil, errors.ErrUnsupported
	}
	opened := &Programs{}
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.Close())
		}
	}()
	return opened, opened.open(seed, inherited)
}

func (p *Programs) open(seed uint64, inherited []*os.File) (err error) {
	if err := p.openMaps(inherited); err != nil {
		return err
	}
	if err := p.mapMemory(); err != nil {
		return err
	}
	if len(inherited) == 0 {
		p.header.Seed = seed
	}
	if p.Ring, err = newRing(p.maps[ringMap], p.header); err != nil {
		return err
	}
	p.Grants = grant.New(p.slots, p.header.Seed)
	return errors.Join(p.load(), mount())
}

// openMaps makes the maps, or goes on with those that there are.
func (p *Programs) openMaps(inherited []*os.File) error {
	specs := [FileCount]*ebpf.MapSpec{
		grantsMap:  {Name: "nfqfw_grants", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(slotSize), MaxEntries: grant.Slots + 1, Flags: unix.BPF_F_MMAPABLE},
		closingMap: {Name: "nfqfw_closing", Type: ebpf.Array, KeySize: 4, ValueSize: memoryLen, MaxEntries: memories},
		answersMap: {Name: "nfqfw_answers", Type: ebpf.Array, KeySize: 4, ValueSize: memoryLen, MaxEntries: memories},
		ringMap:    {Name: "nfqfw_ring", Type: ebpf.RingBuf, MaxEntries: ringSize},
		livingMap:  {Name: "nfqfw_living", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 3},
	}
	for i, spec := range specs {
		open := func() (*ebpf.Map, error) { return ebpf.NewMap(spec) }
		if len(inherited) > 0 {
			open = func() (*ebpf.Map, error) { return inheritMap(inherited[i]) }
		}
		m, err := open()
		if err != nil {
			return err
		}
		p.maps = append(p.maps, m)
	}
	return nil
}

func inheritMap(file *os.File) (*ebpf.Map, error) {
	fd, err := another(file.Fd())
	if err != nil {
		return nil, err
	}
	return ebpf.NewMapFromFD(fd)
}

// another is another descriptor of what one is of.
func another(fd uintptr) (int, error) {
	copied, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	return copied, os.NewSyscallError("fcntl", err)
}

// slotSize is that of a slot, and of the header.
const slotSize = int(unsafe.Sizeof(grant.Slot{}))

// mapped is a map's memory, of so many octets.
func mapped(m *ebpf.Map, size, flags int) ([]byte, error) {
	b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|flags)
	return b, os.NewSyscallError("mmap", err)
}

func (p *Programs) mapMemory() (err error) {
	const size = slotSize * (grant.Slots + 1)
	if p.memory, err = mapped(p.maps[grantsMap], size, 0); err != nil {
		return err
	}
	p.slots = unsafe.Slice((*grant.Slot)(unsafe.Pointer(&p.memory[0])), grant.Slots)
	p.header = (*grant.Header)(unsafe.Pointer(&p.memory[slotSize*grant.Slots]))
	return nil
}

// load loads the programs.
func (p *Programs) load() (err error) {
	s := shared{
		grants: p.maps[grantsMap].FD(), closing: p.maps[closingMap].FD(), answers: p.maps[answersMap].FD(), ring: p.maps[ringMap].FD(),
		seed: p.header.Seed,
	}
	array := p.maps[livingMap]
	for i, code := range []asm.Instructions{opens(s), admits(s)} {
		if err := putProgram(array, uint32(i), pins[i], code); err != nil {
			return err
		}
	}
	for i, code := range [len(pins)]asm.Instructions{ask(array.FD(), 0), ask(array.FD(), 1), records(s), ask(array.FD(), unprovenProgram)} {
		if p.loaded[i], err = loadProgram(pins[i], code); err != nil {
			return err
		}
	}
	return nil
}

// unprovenProgram is the place of the program among the living, which is there once Demand
// has put it there.
const unprovenProgram = 2

// Demand has the program for ACKs that prove nothing go by what the cookies' table says.
func (p *Programs) Demand(c *Cookies) error {
	if err := putProgram(p.maps[livingMap], unprovenProgram, pins[3], unproven(c.answering)); err != nil {
		return fmt.Errorf("bpf: %w", err)
	}
	return nil
}

// putProgram loads a program into an array, in place of the one that was there.
func putProgram(array *ebpf.Map, i uint32, name string, code asm.Instructions) error {
	loaded, err := loadProgram(name, code)
	if err != nil {
		return err
	}
	defer loaded.Close() // the array keeps it
	return array.Put(i, loaded)
}

func loadProgram(name string, code asm.Instructions) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "nfqfw_" + name, Type: ebpf.SocketFilter, Instructions: code, License: "GPL"})
}

// Pin pins the programs where rules of the calling thread's network namespace find them,
// in place of those that were there.
func (p *Programs) Pin() error {
	dir, err := directory()
	if err != nil {
		return fmt.Errorf("bpf: pin: %w", err)
	}
	for i, name := range pins {
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("bpf: pin: %w", err)
		}
		if err := p.loaded[i].Pin(path); err != nil {
			return fmt.Errorf("bpf: pin: %w", err)
		}
	}
	p.dir = dir
	return nil
}

// directory makes a directory for the pins of the network namespace of the calling thread.
func directory() (string, error) {
	var namespace unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &namespace); err != nil {
		return "", os.NewSyscallError("stat", err)
	}
	dir := fmt.Sprintf("%s/nfqfw-%d", root, namespace.Ino)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, nil
}

// mount mounts the file system where nobody has, as ip and bpftool do.
func mount() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", root, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount %s: %w", root, err)
	}
	return nil
}

// Pinned says whether the programs are where rules find them.
func (p *Programs) Pinned() bool { return p.dir != "" }

// Opens is the path of the program that asks for a grant, once it is pinned.
func (p *Programs) Opens() string { return filepath.Join(p.dir, pins[0]) }

// Admits is the path of the program that takes an admission, once it is pinned.
func (p *Programs) Admits() string { return filepath.Join(p.dir, pins[1]) }

// Records is the path of the program that records a packet, once it is pinned.
func (p *Programs) Records() string { return filepath.Join(p.dir, pins[2]) }

// Unproven is the path of the program that says whether an ACK is to be dropped because it
// proves no cookie, once it is pinned.
func (p *Programs) Unproven() string { return filepath.Join(p.dir, pins[3]) }

// Files are other descriptors of the maps, for a process that inherits them.
func (p *Programs) Files() (files []*os.File, err error) {
	for _, m := range p.maps {
		fd, err := another(uintptr(m.FD()))
		if err != nil {
			return files, err
		}
		files = append(files, os.NewFile(uintptr(fd), m.String()))
	}
	return files, nil
}

// Unpin takes the pins away, if there are any. Rules that refer to the programs go on.
func (p *Programs) Unpin() error {
	if p.dir == "" {
		return nil
	}
	var err error
	for _, name := range pins {
		err = errors.Join(err, os.Remove(filepath.Join(p.dir, name)))
	}
	err = errors.Join(err, os.Remove(p.dir))
	if err != nil {
		return fmt.Errorf("bpf: unpin: %w", err)
	}
	return nil
}

// Close lets the memory and the ring go. Nothing of it may be used any more, Grants
// neither.
func (p *Programs) Close() (err error) {
	if p.Ring != nil {
		err = p.Ring.close()
	}
	for _, program := range p.loaded {
		err = errors.Join(err, program.Close())
	}
	for _, m := range p.maps {
		err = errors.Join(err, m.Close())
	}
	if p.memory != nil {
		err = errors.Join(err, unix.Munmap(p.memory))
		p.memory = nil
	}
	return err
}
