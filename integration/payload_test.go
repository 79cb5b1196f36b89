package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	mebibyte = 1 << 20
	// visitors is how many packets of a connection may come to user space: those
	// of the handshake and of the closing, and none between.
	visitors = 12
)

// Payload does not visit user space, in neither direction.
func TestPayloadStaysInKernel(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{})
		before := must[uint64](t, "queued")(g.lab.Gateway.Queued())
		p := g.open(g.source(0))
		opened := must[uint64](t, "queued")(g.lab.Gateway.Queued())
		p.transfer(t, 20*mebibyte)
		transferred := must[uint64](t, "queued")(g.lab.Gateway.Queued())
		t.Logf("%d packets for the handshake, %d for 40 MiB", opened-before, transferred-opened)
		// Only what the handshake still had to say.
		if n := transferred - before; n > visitors {
			t.Errorf("%d packets came to user space", n)
		}
	})
}

// What is sent arrives, through whatever the kernel has to translate.
func TestPayloadIntact(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{})
		g.open(g.source(0)) // the next one scales its windows
		p := g.open(g.source(0))
		size := int64(64 * mebibyte)
		if policy == "synproxy" && at.name == "forwarded" && f == IPv4 && !raceEnabled {
			size = 1024 * mebibyte
		}
		p.transfer(t, size)
	})
}

// transfer sends size octets each way, one after the other.
func (p pair) transfer(t *testing.T, size int64) {
	t.Helper()
	for _, way := range []struct {
		name     string
		from, to *net.TCPConn
	}{{"up", p.client, p.server}, {"down", p.server, p.client}} {
		start := time.Now()
		if err := transfer(way.from, way.to, size); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		took := time.Since(start)
		t.Logf("%s: %d MiB in %v, %.1f Gbit/s", way.name, size/mebibyte, took.Round(time.Millisecond), float64(size)*8/took.Seconds()/1e9)
		// Far below what any machine does, but no retransmission timer gets there.
		if limit := time.Second + time.Duration(size/mebibyte)*20*time.Millisecond; took > limit {
			t.Errorf("%s: %v is more than %v", way.name, took, limit)
		}
	}
}

// transfer sends octets of which no two blocks are alike and compares what
// arrives.
func transfer(from, to *net.TCPConn, size int64) error {
	deadline := time.Now().Add(30 * time.Second)
	_ = from.SetWriteDeadline(deadline)
	_ = to.SetReadDeadline(deadline)
	var sent, got maphash.Hash
	got.SetSeed(sent.Seed())
	var g errgroup.Group
	g.Go(func() error {
		block := make([]byte, mebibyte)
		for i := range size / mebibyte {
			for j := 0; j < len(block); j += 512 {
				binary.BigEndian.PutUint64(block[j:], uint64(i*mebibyte)+uint64(j))
			}
			_, _ = sent.Write(block) // never fails
			if _, err := from.Write(block); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		return nil
	})
	g.Go(func() error {
		if n, err := io.CopyBuffer(&got, io.LimitReader(to, size), make([]byte, mebibyte)); err != nil || n != size {
			return fmt.Errorf("received %d of %d: %w", n, size, err)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if sent.Sum64() != got.Sum64() {
		return errors.New("what arrived is not what was sent")
	}
	return nil
}

// The client of a server that is not known yet is served without window
// scaling or with the right one; the next ones get the server's.
func TestWindowScaling(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{Echo: true})
		for i := range 3 {
			p := g.open(g.source(i))
			echo(t, p.client)
			client, server := scalingOf(t, p.client), scalingOf(t, p.server)
			if client.on != server.on || client.send != server.receive || client.receive != server.send {
				t.Errorf("connection %d: the client has %+v, the server %+v", i, client, server)
			}
			if i > 0 && (!client.on || client.send == 0 || client.receive == 0) {
				t.Errorf("connection %d: %+v, want scaled windows", i, client)
			}
		}
	})
}

// scaling is what one end of a connection knows of its window shifts.
type scaling struct {
	on            bool
	send, receive uint8 // for windows it reads, and for those it advertises
}

// scalingOf reads tcpi_options and the byte after it, tcpi_snd_wscale:4 and
// tcpi_rcv_wscale:4, which x/sys/unix has no names for.
func scalingOf(t *testing.T, c *net.TCPConn) scaling {
	t.Helper()
	raw := must[syscall.RawConn](t, "raw")(c.SyscallConn())
	var info *unix.TCPInfo
	var err error
	if ctl := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); ctl != nil || err != nil {
		t.Fatalf("TCP_INFO: %v %v", ctl, err)
	}
	shifts := (*[8]byte)(unsafe.Pointer(info))[6]
	const optionWScale = 4 // TCPI_OPT_WSCALE
	return scaling{on: info.Options&optionWScale != 0, send: shifts & 0xf, receive: shifts >> 4}
}
