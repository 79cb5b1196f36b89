package daemon

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/bpf"
	"nfqfw/internal/engine"
	"nfqfw/internal/offload"
	"nfqfw/internal/table"
	"nfqfw/rules"
)

// A daemon hands over to another over a Unix socket of that one's: first the descriptors
// of its queues, of its log group, of its control socket and of what its programs of BPF
// share, then what is needed to go on, then the states. From the first octet on it judges
// nothing; packets wait in the queues. When the other is ready it says so, and the first
// lets go, and says so. If the other is silent or gone before it is ready, the first goes on
// as if nothing had been.

// handoverTimeout is how long the other may take until it is ready.
const handoverTimeout = 30 * time.Second

// What the two say to each other beside that.
const (
	saysReady    = 'R' // the new one: from here on it is I who judges
	saysReleased = 'L' // the old one: and I have let go
)

// handover is what comes before the states.
type handover struct {
	Version   int               // of this struct and of those in it
	Queues    []uint16          // whose descriptors come first, in this order; then the log group's and the control socket's
	At        int64             // when this was written: nanoseconds since boot
	Now       time.Duration     // and the engine's time then
	Settings  []offload.Setting // that were off before there was a daemon
	Finishing []rules.Rule
	Hooks     string                   // the text of those that are in,
	Stamps    bool                     // and whether they have the kernel translate timestamps
	Programs  bool                     // the kernel has programs of BPF, whose descriptors come last
	Tables    map[string][]table.Entry // what was added to them
	Engine    engine.Snapshot
}

// handoverVersion changes with what is written. One daemon cannot take over from another
// of a different version without a restart.
const handoverVersion = 3

// sinceBoot is a clock that two processes share.
func sinceBoot() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // never fails for this clock
	return t.Nano()
}

// sendFiles writes one octet, and descriptors with it.
func sendFiles(c *net.UnixConn, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		// Fd would have the socket block, for whoever has a descriptor of it.
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return err
		}
	}
	_, _, err := c.WriteMsgUnix([]byte{byte(len(files))}, unix.UnixRights(fds...), nil)
	return err
}

// maxFiles is how many descriptors come at most: a queue has one.
const maxFiles = 66 + bpf.FileCount

// receiveFiles reads what sendFiles has written.
func receiveFiles(c *net.UnixConn) ([]*os.File, error) {
	count, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*maxFiles))
	_, n, _, _, err := c.ReadMsgUnix(count, oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("no descriptors came"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	var files []*os.File
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), fmt.Sprint("inherited ", i)))
	}
	if err == nil && len(files) != int(count[0]) {
		err = fmt.Errorf("%d descriptors of %d came", len(files), count[0])
	}
	return files, err
}

// write sends all but the descriptors.
func (h *handover) write(w io.Writer, e *engine.Engine) error {
	out := gob.NewEncoder(w)
	if err := out.Encode(h); err != nil {
		return err
	}
	if err := e.EachSaved(func(part []engine.SavedState) error { return out.Encode(part) }); err != nil {
		return err
	}
	return out.Encode([]engine.SavedState{})
}

// read takes what write has written; state is called with each state, and begin before.
func (h *handover) read(r io.Reader, begin func() error, state func(*engine.SavedState)) error {
	in := gob.NewDecoder(r)
	if err := in.Decode(h); err != nil {
		return err
	}
	if h.Version != handoverVersion {
		return fmt.Errorf("the daemon that runs hands over in another way (version %d, not %d); restart it", h.Version, handoverVersion)
	}
	if err := begin(); err != nil {
		return err
	}
	for {
		var part []engine.SavedState
		if err := in.Decode(&part); err != nil {
			return err
		}
		if len(part) == 0 {
			return nil
		}
		for i := range part {
			state(&part[i])
		}
	}
}
