package wire

import (
	"encoding/binary"

	"github.com/google/gopacket/layers"

	"nfqfw/internal/packet"
)

// TCP option kinds and lengths (RFC 9293 section 3.2, RFC 7323, RFC 2018, RFC
// 7413), by the kernel's names in include/net/tcp.h.
const (
	optEOL        = 0   // TCPOPT_EOL
	optNOP        = 1   // TCPOPT_NOP
	optMSS        = 2   // TCPOPT_MSS
	optWindow     = 3   // TCPOPT_WINDOW
	optSACKPerm   = 4   // TCPOPT_SACK_PERM
	optTimestamp  = 8   // TCPOPT_TIMESTAMP
	optFastOpen   = 34  // TCPOPT_FASTOPEN
	optExperiment = 254 // TCPOPT_EXP

	fastOpenMagic = 0xf989 // TCPOPT_FASTOPEN_MAGIC: which experiment it is

	lenMSS       = 4  // TCPOLEN_MSS
	lenWindow    = 3  // TCPOLEN_WINDOW
	lenSACKPerm  = 2  // TCPOLEN_SACK_PERM
	lenTimestamp = 10 // TCPOLEN_TIMESTAMP

	maxOptionsLen = 40 // what the data offset leaves for options, in octets
)

// walkable says whether the options in b, of TCP or of IPv4, follow each other
// to the end list or the end of the header. Both number the two options without
// a length alike.
func walkable(b []byte) bool {
	for len(b) > 0 {
		switch b[0] {
		case optEOL:
			return true
		case optNOP:
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return false
		}
		b = b[b[1]:]
	}
	return true
}

// readOptions picks the options as the kernel's tcp_parse_options does: of two
// alike the last one wins, one of the wrong length is ignored, and those of the
// handshake count on a SYN only.
func readOptions(list []layers.TCPOption, syn bool) packet.Options {
	var o packet.Options
	for i := range list {
		opt := &list[i]
		switch {
		case opt.OptionType == optTimestamp && opt.OptionLength == lenTimestamp:
			o.HasTimestamp = true
			o.TSVal = binary.BigEndian.Uint32(opt.OptionData)
			o.TSEcr = binary.BigEndian.Uint32(opt.OptionData[4:])
		case syn:
			readSYNOption(&o, opt)
		}
	}
	return o
}

func readSYNOption(o *packet.Options, opt *layers.TCPOption) {
	switch {
	case opt.OptionType == optMSS && opt.OptionLength == lenMSS:
		if mss := binary.BigEndian.Uint16(opt.OptionData); mss != 0 {
			o.MSS = mss
		}
	case opt.OptionType == optWindow && opt.OptionLength == lenWindow:
		o.HasWScale = true
		o.WScale = min(opt.OptionData[0], packet.MaxWScale)
	case opt.OptionType == optSACKPerm && opt.OptionLength == lenSACKPerm:
		o.SACKPermitted = true
	case fastOpen(opt):
		o.FastOpen = true
	}
}

// fastOpen says whether an option is of TCP Fast Open: a cookie, or the request
// for one, which is empty. A server takes it in the form from before RFC 7413 too.
func fastOpen(opt *layers.TCPOption) bool {
	if opt.OptionType == optExperiment {
		return len(opt.OptionData) >= 2 && binary.BigEndian.Uint16(opt.OptionData) == fastOpenMagic
	}
	return opt.OptionType == optFastOpen
}

// appendOptions writes options in the order and with the padding of the
// kernel's tcp_options_write, which needs 24 octets at most. There is no Fast
// Open with us.
func appendOptions(b []byte, o *packet.Options, syn bool) []byte {
	if syn && o.MSS != 0 {
		b = append(b, optMSS, lenMSS, byte(o.MSS>>8), byte(o.MSS))
	}
	sack := syn && o.SACKPermitted
	if o.HasTimestamp {
		if sack {
			b = append(b, optSACKPerm, lenSACKPerm, optTimestamp, lenTimestamp)
		} else {
			b = append(b, optNOP, optNOP, optTimestamp, lenTimestamp)
		}
		b = binary.BigEndian.AppendUint32(b, o.TSVal)
		b = binary.BigEndian.AppendUint32(b, o.TSEcr)
	} else if sack {
		b = append(b, optNOP, optNOP, optSACKPerm, lenSACKPerm)
	}
	if syn && o.HasWScale {
		b = append(b, optNOP, optWindow, lenWindow, min(o.WScale, packet.MaxWScale))
	}
	return b
}
