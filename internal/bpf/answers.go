package bpf

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
)

// Offsets from the frame pointer of the program that answers, in octets, beside those that
// all programs have.
const (
	deviceAt = -152 // the interface
	countAt  = -160 // the length of the client's TCP header
	headerOf = -168 // where the header of the services is in memory
	tcpOffAt = -176 // where the TCP header is in the packet

	// The client's options: 0 or not, and what they say; and then those it is told: 1 or 0.
	mssAt        = -184
	hasSACKAt    = -192
	hasWScaleAt  = -200
	wscaleAt     = -208
	hasStampAt   = -216
	stampAt      = -224
	cookieAt     = -232
	oldTCPAt     = -296 // the client's header
	newTCPAt     = -360 // and ours
	portsAt      = -368 // the last words of what the cookie is a hash of
	numberAt     = -376
	listedAt     = -396 // the key of a source that rules or tables name: 128, and the address
	etherAt      = -408
	newEtherAt   = -424
	ipAt         = -464
	secretAt     = -480     // the key of the cookie
	clientAt     = -488     // the client's initial number
	routeAt      = newTCPAt // before that is written
	maxTCP       = 60
	etherLen     = 14
	addressesLen = 12 // of an Ethernet header
)

// Fields of the kernel's struct __sk_buff, and values of them.
const (
	skbPktType = 4
	skbProto   = 16
	skbVLAN    = 20

	packetHost = 0
	etherIPv4  = 0x0008 // as the field has it: in network order
	etherIPv6  = 0xdd86
)

// What the program answers the kernel (bpf.h, enum tcx_action_base).
const (
	tcxNext = -1
	tcxDrop = 2
)

// Flags of helpers (bpf.h).
const (
	recomputeChecksum = 1    // BPF_F_RECOMPUTE_CSUM
	pseudoHeader      = 0x10 // BPF_F_PSEUDO_HDR
)

// answering are the maps of the program that answers, by their descriptors, and the seed.
type answering struct {
	services, cells, listed int
	seed                    uint64
}

// answers is the program that answers a SYN with a cookie, as the engine would: it makes the
// answer of the packet, and sends it back by the interface that it came in by. It is asked
// where packets come in (tcx, in a link with Ethernet headers). What it does not understand,
// and what it may not answer, it leaves to the rest of the kernel.
func answers(a answering) asm.Instructions {
	c := &code{shared: shared{seed: a.seed}, link: etherLen}
	c.expected()
	c.parse()
	c.wholeSYN()
	c.service(a.services)
	c.stranger(a.cells, a.listed)
	c.route()
	c.optionsOfSYN()
	c.tell()
	c.bake()
	c.segment()
	c.send()
	c.answer("drop", tcxDrop)
	c.answer("no", tcxNext)
	return c.Instructions
}

// expected goes on for a packet of IP that is for this machine to take.
func (c *code) expected() {
	c.add(
		asm.LoadMem(asm.R2, asm.R1, skbPktType, asm.Word), asm.JNE.Imm(asm.R2, packetHost, "no"),
		asm.LoadMem(asm.R2, asm.R1, skbVLAN, asm.Word), asm.JNE.Imm(asm.R2, 0, "no"), // of an interface of its own
		asm.LoadMem(asm.R2, asm.R1, skbProto, asm.Word),
		asm.JEq.Imm(asm.R2, etherIPv4, "ip"), asm.JNE.Imm(asm.R2, etherIPv6, "no"),
	)
	c.label = "ip"
}

// wholeSYN goes on for a SYN that is whole and has no payload. R9 is where its options begin
// then, and R8 where they end.
func (c *code) wholeSYN() {
	c.control()
	c.add(
		asm.JNE.Imm(asm.R1, int32(packet.SYN), "no"),
		asm.LoadMem(asm.R1, asm.RFP, headerAt, asm.Byte), asm.JNE.Imm(asm.R1, plainIPv4, "one"),
		asm.LoadMem(asm.R1, asm.RFP, headerAt+6, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.And.Imm(asm.R1, 0x3fff), asm.JNE.Imm(asm.R1, 0, "no"), // a fragment
	)
	c.label = "one"
	c.bare()
	c.add(
		asm.Sub.Reg(asm.R1, asm.R9), asm.JLT.Imm(asm.R1, tcpLen, "no"), asm.JGT.Imm(asm.R1, maxTCP, "no"),
		asm.StoreMem(asm.RFP, countAt, asm.R1, asm.DWord),
		asm.Add.Imm(asm.R8, etherLen),
		asm.Add.Imm(asm.R9, etherLen), asm.StoreMem(asm.RFP, tcpOffAt, asm.R9, asm.DWord),
		asm.Add.Imm(asm.R9, tcpLen),
	)
}

// service puts the service of the packet into R7, if it is answered for now, and the header
// into R0.
func (c *code) service(services int) {
	var s syncookie.Service
	c.add(
		asm.LoadMem(asm.R1, asm.R6, skbIfindex, asm.Word), asm.StoreMem(asm.RFP, deviceAt, asm.R1, asm.DWord),
	)
	c.mix(tcpAt+2, portAt, keyAt+16, keyAt+24, deviceAt)
	c.add(asm.And.Imm(asm.R1, syncookie.Services-1))
	c.element(services, "no")
	c.add(asm.Mov.Reg(asm.R7, asm.R0))
	for i := int16(0); i < 16; i += 8 {
		c.unlike(asm.LoadMem(asm.R1, asm.R7, i, asm.DWord), keyAt+16+i, "no")
	}
	c.unlike(asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(s.InDev)), asm.Word), deviceAt, "no")
	c.unlike(asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(s.Port)), asm.Half), portAt, "no")
	c.add(
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R7, int16(unsafe.Offsetof(s.Until)), asm.DWord),
		asm.JGE.Reg(asm.R0, asm.R1, "no"),
		asm.Mov.Imm(asm.R1, syncookie.Services),
	)
	c.element(services, "no")
	c.add(asm.StoreMem(asm.RFP, headerOf, asm.R0, asm.DWord))
}

// stranger goes on for a client that has no state of this tuple, and few that limits are
// about, and that no rule or table names.
func (c *code) stranger(cells, listed int) {
	c.within(cells)
	c.unknown(cells)
	c.copy(keyAt, listedAt+4, 16)
	c.add(
		asm.Mov.Imm(asm.R1, 128), asm.StoreMem(asm.RFP, listedAt, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, listed),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, listedAt),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "no"),
	)
}

// within goes on for a source that has few states that limits are about.
func (c *code) within(cells int) {
	c.add(
		asm.LoadMem(asm.R2, asm.RFP, keyAt, asm.DWord), asm.JNE.Imm(asm.R2, 0, "cell"),
		asm.LoadMem(asm.R2, asm.RFP, keyAt+8, asm.DWord),
	)
	c.label = "cell"
	c.add(
		asm.LoadImm(asm.R1, int64(c.seed), asm.DWord), asm.Xor.Reg(asm.R1, asm.R2),
		asm.LoadImm(asm.R2, packet.MixFactor-1<<64, asm.DWord), asm.Mul.Reg(asm.R1, asm.R2),
		asm.RSh.Imm(asm.R1, 64-syncookie.CellBits),
	)
	c.element(cells, "no")
	c.add(
		asm.LoadMem(asm.R1, asm.R0, int16(unsafe.Offsetof(syncookie.Cell{}.Source)), asm.Word),
		asm.LoadMem(asm.R2, asm.R7, int16(unsafe.Offsetof(syncookie.Service{}.Few)), asm.Word), asm.JGT.Reg(asm.R1, asm.R2, "no"),
	)
}

// unknown goes on for a tuple that has no state.
func (c *code) unknown(cells int) {
	c.add(asm.LoadMem(asm.R1, asm.RFP, tcpAt, asm.Word), asm.StoreMem(asm.RFP, portsAt, asm.R1, asm.DWord))
	c.mixWords(keyAt, keyAt+8, keyAt+16, keyAt+24, portsAt)
	c.add(asm.And.Imm(asm.R1, syncookie.Cells-1))
	c.element(cells, "no")
	c.add(asm.LoadMem(asm.R1, asm.R0, int16(unsafe.Offsetof(syncookie.Cell{}.Tuple)), asm.Word), asm.JNE.Imm(asm.R1, 0, "no"))
}
