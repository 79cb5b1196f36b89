package hooks

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Generation tells cheaply that somebody may have changed the hooks: the kernel
// counts the changes of nftables in a network namespace, which are those of iptables
// too if that has nftables as its back end. It belongs to one goroutine.
type Generation struct {
	con    *netlink.Conn
	number uint32
}

// OpenGeneration asks in the network namespace of the calling thread. It fails where
// the kernel has no nftables.
func OpenGeneration() (*Generation, error) {
	con, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("hooks: generation of nftables: %w", err)
	}
	g := &Generation{con: con}
	if g.number, err = g.ask(); err != nil {
		_ = con.Close()
		return nil, err
	}
	return g, nil
}

// Close closes the socket.
func (g *Generation) Close() error { return g.con.Close() }

// Changed says whether there was a change since it was last asked.
func (g *Generation) Changed() (bool, error) {
	n, err := g.ask()
	if err != nil {
		return false, err
	}
	changed := n != g.number
	g.number = n
	return changed, nil
}

// ask sends NFT_MSG_GETGEN, and reads NFTA_GEN_ID (nf_tables.h).
func (g *Generation) ask() (uint32, error) {
	const getGeneration, attrID = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, 1
	header := netlink.Header{Type: getGeneration, Flags: netlink.Request}
	list, err := g.con.Execute(netlink.Message{Header: header, Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}})
	if err != nil {
		return 0, fmt.Errorf("hooks: generation of nftables: %w", err)
	}
	for _, m := range list {
		if len(m.Data) < 4 {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("hooks: generation of nftables: %w", err)
		}
		attrs.ByteOrder = binary.BigEndian
		for attrs.Next() {
			if attrs.Type() == attrID {
				return attrs.Uint32(), attrs.Err()
			}
		}
	}
	return 0, fmt.Errorf("hooks: generation of nftables: %d answers, and no number in them", len(list))
}

// Counted says whether a Generation tells of all changes of the hooks: iptables has
// nftables as its back end.
func Counted(ctx context.Context) bool {
	for _, f := range Families {
		version, err := run(ctx, "", f.command("save"), "--version")
		if err != nil || !strings.Contains(version, "nf_tables") {
			return false
		}
	}
	return true
}
