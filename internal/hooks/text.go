package hooks

import (
	"fmt"
	"slices"
	"strings"

	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// prefix begins the name of each chain of ours.
const prefix = "NFQFW-"

// steps is the chain that the scopes of the mangle table lead to.
const steps = prefix + "QUEUE"

// notrack is the chain of the raw table that keeps segments of ours out of
// conntrack.
const notrack = prefix + "NOTRACK"

// Translation is a chain of the mangle table that nothing leads to. That its
// rules are there has the kernel translate for the connections of the SYN proxy.
const Translation = prefix + "TRANSLATE"

// Closing is a chain of the mangle table that the FINs of admitted connections visit:
// the kernel remembers who has sent one, for the next daemon.
const Closing = prefix + "CLOSING"

// The chains of the mangle table that tell the engine of what closes a connection, and let
// it pass: a FIN of the client's, one of the server's, and what answers it.
const (
	clientFIN = prefix + "FIN-CLIENT"
	serverFIN = prefix + "FIN-SERVER"
	answerFIN = prefix + "FIN-ANSWER"
)

// The kernel lets SYNs, and their answers, pass the raw table that are granted (granted),
// and tells of them in the mangle table once conntrack has agreed (opened, opening). There it
// also lets ACKs pass whose connections' admission is granted (admitted).
const (
	granted  = prefix + "GRANTED"
	opened   = prefix + "OPENED"
	opening  = prefix + "OPENING"
	admitted = prefix + "ADMITTED"
)

// tables are the tables in which we have chains, and the built-in chains that
// jump to them. Each table changes at once, and the two one after the other:
// they come in this order and go in the opposite one, for the mangle table can do
// without the raw one, at a price, and not the other way.
var tables = []struct {
	name     string
	builtin  []string
	extra    []string // chains of ours that no built-in chain jumps to
	granting []string // more of these, if the kernel may be granted something
}{
	{name: "mangle", builtin: []string{"PREROUTING", "OUTPUT", "FORWARD", "INPUT", "POSTROUTING"}, extra: []string{steps, clientFIN, serverFIN, answerFIN, Closing, Translation}, granting: []string{opened, opening, admitted}},
	{name: "raw", builtin: []string{"PREROUTING", "OUTPUT"}, extra: []string{notrack}, granting: []string{granted}},
}

// Rules is what Install gives to iptables-restore --noflush, or its IPv6 twin,
// where no hooks are yet and the kernel has all it may have. It is pure.
func Rules(c Config, f Family) string { return text(c, f, nil, true) }

// text is Rules, after taking away the jumps that are there. Timestamps are
// translated or not.
func text(c Config, f Family, present installed, timestamps bool) string {
	kernel, queued := split(c.Rules)
	w := &writer{
		config: c, family: f, timestamps: timestamps,
		kernel: kernel, queued: scopes(append(queued, c.Finishing...), f),
	}
	for _, t := range tables {
		w.line("*%s", t.name)
		// To declare a chain that exists flushes it.
		for _, chain := range w.chains(t.builtin, t.extra, t.granting) {
			w.line(":%s - [0:0]", chain)
		}
		for _, jump := range present[t.name].jumps {
			w.line("-D %s", jump)
		}
		if t.name == "raw" {
			w.raw()
		} else {
			w.mangle()
		}
		for _, b := range t.builtin {
			w.jump(t.name, b)
		}
		w.line("COMMIT")
	}
	return w.String()
}

// chains are the names of our chains in a table.
func (w *writer) chains(builtin, extra, granting []string) (names []string) {
	for _, b := range builtin {
		names = append(names, prefix+b)
	}
	names = append(names, extra...)
	if w.config.Programs != nil {
		names = append(names, granting...)
	}
	return names
}

// A writer builds the text.
type writer struct {
	strings.Builder
	config     Config
	family     Family
	timestamps bool
	kernel     []rules.Rule // that the kernel carries out by itself
	queued     []scope      // of what comes to the queues
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// jump leads from a built-in chain to ours, before all that others have there.
// Nearly all packets are payload: as few rules as possible look at them.
func (w *writer) jump(table, builtin string) {
	to := func(match, chain string) { w.line("-I %s 1 -p tcp%s -j %s", builtin, match, chain) }
	switch {
	case table == "raw":
		to(" --tcp-flags SYN,RST SYN"+isNot(packet.MarkOwn), prefix+builtin)
		if builtin == "OUTPUT" {
			to(is(packet.MarkOwn), notrack)
		}
	case builtin == "PREROUTING" || builtin == "OUTPUT":
		w.jumpUnmarked(to, prefix+builtin)
	default:
		// The engine has said something, of a packet that is not ours.
		to(fmt.Sprintf(" -m mark ! --mark 0x0/%#x", mask&^uint32(packet.MarkOwn)), prefix+builtin)
	}
}

// jumpUnmarked leads what is neither ours nor judged in the raw table already; but what is
// granted there, too.
func (w *writer) jumpUnmarked(to func(match, chain string), chain string) {
	bits := mask
	if w.config.Programs != nil {
		bits &^= uint32(packet.MarkGranted)
	}
	to(fmt.Sprintf(" -m mark --mark 0x0/%#x", bits), chain)
}

// raw catches SYN and SYN+ACK before conntrack sees them, so that a flood
// makes no entries.
func (w *writer) raw() {
	for _, b := range []string{"PREROUTING", "OUTPUT"} {
		w.notLoopback(b)
		w.drop(b, " --tcp-flags FIN,SYN,RST,ACK SYN")
		if w.config.Programs != nil {
			w.line("-A %s%s -g %s", prefix+b, asks(w.config.Programs.Opens), granted)
		}
		w.inScope(b, " -p tcp", "-j "+w.queue(w.config.Open))
	}
	w.line("-A %s -j CT --notrack", notrack)
	if w.config.Programs != nil {
		w.line("-A %s -j %s", granted, setMark(packet.MarkGranted))
	}
}

// mangle queues what conntrack has seen, and steers what follows by the mark
// that the verdict left.
func (w *writer) mangle() {
	for _, b := range []string{"PREROUTING", "OUTPUT"} {
		// Payload of admitted connections, by far the most, goes no further.
		w.line("-A %s%s%s -j RETURN", prefix+b, payload, connmark(packet.MarkClear, packet.MarkCopies))
		if p := w.config.Programs; p != nil {
			w.line("-A %s%s -g %s", prefix+b, is(packet.MarkGranted), opened)
		}
		w.line("-A %s%s%s%s -g %s", prefix+b, payload, connmark(packet.MarkClosing, packet.MarkCopies), established, answerFIN)
		if p := w.config.Programs; p != nil {
			w.line("-A %s%s%s%s --ctdir ORIGINAL%s -g %s", prefix+b, payload, connIs(packet.MarkOpening), established, asks(p.Admits), admitted)
		}
		w.copy(b)
		w.notLoopback(b)
		// What belongs to an open connection goes on.
		w.drop(b, " -m conntrack --ctstate NEW,INVALID,UNTRACKED")
		// Go and do not come back: a packet in two scopes is one packet.
		w.inScope(b, " -p tcp", "-g "+steps)
	}
	w.steps()
	w.opens()
	w.copies()
	for _, b := range []string{"FORWARD", "INPUT", "POSTROUTING"} {
		w.saveMark(prefix + b)
	}
	w.closing()
	w.translate()
}

// fin matches what closes one side of a connection.
const fin = " -p tcp --tcp-flags FIN FIN"

// established matches what belongs to an entry of the kernel's.
const established = " -m conntrack --ctstate ESTABLISHED"

// copy leads what closes an admitted connection, and what answers that, to where it is
// copied, for it wants no verdict. A FIN in a server's name that comes in where clients do,
// or comes in in this machine's own name, is queued: it may be forged.
func (w *writer) copy(builtin string) {
	closes := " -p tcp --tcp-flags FIN,RST FIN" + connmark(packet.MarkClear, packet.MarkCopied) + established
	w.line("-A %s%s --ctdir ORIGINAL -g %s", prefix+builtin, closes, clientFIN)
	if builtin == "PREROUTING" {
		for _, match := range append(w.clientIfaces(), " -m addrtype --src-type LOCAL") {
			w.line("-A %s%s%s -g %s", prefix+builtin, closes, match, steps)
		}
	}
	w.line("-A %s%s -g %s", prefix+builtin, closes, serverFIN)
}

// clientIfaces match the interfaces by which clients come in, each once.
func (w *writer) clientIfaces() (list []string) {
	for _, s := range w.queued {
		match := s.inIface()
		if s.iface == "" {
			return []string{""} // any, or nearly
		}
		if !slices.Contains(list, match) {
			list = append(list, match)
		}
	}
	return list
}

// closing writes the chain that marks a connection as closing, and as closed by its
// server if the FIN is the server's.
func (w *writer) closing() {
	known := connIsNot(0) + connIsNot(packet.MarkOpening)
	w.line("-A %s%s --ctdir ORIGINAL%s -j %s", Closing, established, known, setConnmark(packet.MarkTrack, packet.MarkSteer))
	w.line("-A %s%s --ctdir REPLY%s -j %s", Closing, established, known, setConnmark(packet.MarkTrack|packet.MarkServerClosed, packet.MarkMask))
}

// translate writes the chain whose rules are never asked. The kernel tracks, and
// translates sequence numbers, while a rule of the network namespace matches by
// conntrack; and it translates timestamps while one has the target SYNPROXY
// (xt_conntrack.c and ipt_SYNPROXY.c: checkentry).
func (w *writer) translate() {
	w.line("-A %s -m conntrack --ctstate INVALID -j RETURN", Translation)
	if w.timestamps {
		w.line("-A %s -p tcp -j SYNPROXY", Translation)
	}
}

// notLoopback leaves the loopback interface alone.
func (w *writer) notLoopback(builtin string) {
	option := "-i"
	if builtin == "OUTPUT" {
		option = "-o"
	}
	w.line("-A %s %s lo -j RETURN", prefix+builtin, option)
}

// inScope writes a rule for each scope and direction, each once. Interfaces
// are those that clients come in by, so that a client on this machine is in
// the scope of rules without one only.
func (w *writer) inScope(builtin, match, target string) {
	seen := make(map[string]bool)
	add := func(direction string) {
		line := fmt.Sprintf("-A %s%s%s %s", prefix+builtin, match, direction, target)
		if !seen[line] {
			seen[line] = true
			w.line("%s", line)
		}
	}
	for _, s := range w.queued {
		if builtin == "PREROUTING" || s.anywhere() {
			add(s.request())
		}
		add(s.reply())
	}
}

// payload matches what neither opens nor closes a connection.
const payload = " -p tcp --tcp-flags FIN,SYN,RST NONE"

// steps writes the chain that decides which packets in scope are queued.
//
// Conntrack leaves no entry with an INVALID or UNTRACKED packet, so that no
// match of the connmark, negated or not, is true of those.
func (w *writer) steps() {
	add := func(format string, args ...any) { w.line("-A "+steps+format, args...) }
	bypass := w.queue(true)
	const closing = " -p tcp ! --tcp-flags FIN,RST NONE"

	// The ACK of a handshake that is watched: every connection has one.
	add("%s%s%s -j %s", payload, connIs(packet.MarkTrack), established, bypass)

	// Payload of connections begun before the hooks, or while nobody listened, goes on. A
	// SYN comes here only while the raw table's hooks are not in.
	add("%s%s%s -j RETURN", payload, connIs(0), established)

	// Under a flood of ACKs most go no further.
	if p := w.config.Programs; p != nil {
		add("%s -m conntrack --ctstate NEW,INVALID%s -j DROP", payload, asks(p.Unproven))
	}

	// Tell the engine what NFQUEUE does not tell: the packet's ctstate.
	add(" -m conntrack --ctstate INVALID -j %s", setMark(packet.MarkConnInvalid))
	add(" -m conntrack --ctstate NEW,RELATED,UNTRACKED -j %s", setMark(packet.MarkConnNew))
	add("%s%s -j %s", established, connIs(packet.MarkOpening), setMark(packet.MarkConnOpening))

	// Admitted connections can close while nobody listens, and the kernel remembers
	// who has; the rest obeys the configuration.
	add("%s -j %s", fin, Closing)
	add("%s%s%s -j %s", closing, established, connIsNot(packet.MarkOpening), bypass)
	add("%s -j %s", steers(packet.MarkTrack), bypass)
	add(" -j %s", w.queue(w.config.Open))
}

// opens writes the chains for what is granted. What conntrack takes for something else than
// the beginning of a connection, or its answer, or what cannot be told of, is queued.
func (w *writer) opens() {
	p := w.config.Programs
	if p == nil {
		return
	}
	w.line("-A %s -j %s", opened, setMark(0))
	w.line("-A %s -p tcp --tcp-flags SYN,ACK SYN -m conntrack --ctstate NEW%s -g %s", opened, asks(p.Records), opening)
	w.line("-A %s -p tcp --tcp-flags SYN,ACK SYN,ACK%s%s --ctdir REPLY%s -j RETURN", opened, connIs(packet.MarkOpening), established, asks(p.Records))
	w.line("-A %s%s -j %s", opened, established, setMark(packet.MarkConnOlder))
	w.line("-A %s -g %s", opened, steps)
	w.line("-A %s -j %s", opening, setConnmark(packet.MarkOpening, packet.MarkMask))
	w.line("-A %s -j %s", admitted, setConnmark(packet.MarkClear, packet.MarkMask))
}

// asks matches what a program says yes to.
func asks(program string) string { return " -m bpf --object-pinned " + program }

// copies writes the chains that copy a FIN of an admitted connection, and the first
// packet after it, which is most likely the answer. If it is not, the other side's FIN
// acknowledges this one. All that follows both is copied: one of it is the last ACK.
func (w *writer) copies() {
	closed := func(by packet.Mark) string {
		return " -j " + setConnmark(packet.MarkClosing|by, packet.MarkClosing|by)
	}
	w.copied(clientFIN, closed(packet.MarkClientClosed))
	w.copied(serverFIN, closed(packet.MarkServerClosed))
	w.copied(answerFIN, fmt.Sprintf(" -m connmark ! --mark %#[1]x/%#[1]x -j %[2]s", uint32(packet.MarkClosed), setConnmark(packet.MarkClear, packet.MarkCopies)))
}

// copied writes a chain that notes something and copies the packet.
func (w *writer) copied(chain, note string) {
	w.line("-A %s%s", chain, note)
	if p := w.config.Programs; p != nil {
		w.line("-A %s%s -j RETURN", chain, asks(p.Records))
	}
	w.line("-A %s -j NFLOG --nflog-group %d", chain, w.config.FirstQueue)
}

// saveMark writes the chain that saves what the engine said about the
// connection, and leaves the packet without a mark of ours. The mark of our own
// segments stays, which do not come here: one to a server on this machine comes in again
// over lo.
func (w *writer) saveMark(chain string) {
	for _, m := range []packet.Mark{packet.MarkTrack, packet.MarkClear} {
		w.line("-A %s -m mark --mark %#x/%#x -j CONNMARK --save-mark --nfmask %#x --ctmask %#x",
			chain, uint32(m), uint32(packet.MarkSaved), mask, mask)
	}
	w.line("-A %s -j %s", chain, setMark(0))
}

// queue is the target that gives a packet to the engine. With bypass the
// packet leaves the table's chain accepted if nobody listens, as it does on
// the engine's verdict; the later tables still see it. Without, it is dropped.
func (w *writer) queue(bypass bool) string {
	target := fmt.Sprintf("NFQUEUE --queue-num %d", w.config.FirstQueue)
	if w.config.FirstQueue != w.config.LastQueue {
		// Spread by address pair, the same way for both directions, and SYNs with the rest:
		// one that overtakes the RST before it meets the old connection, and is lost.
		target = fmt.Sprintf("NFQUEUE --queue-balance %d:%d", w.config.FirstQueue, w.config.LastQueue)
	}
	if bypass {
		target += " --queue-bypass"
	}
	return target
}

// mask as a number that prints in hexadecimal.
const mask = uint32(packet.MarkMask)

func is(m packet.Mark) string    { return fmt.Sprintf(" -m mark --mark %#x/%#x", uint32(m), mask) }
func isNot(m packet.Mark) string { return fmt.Sprintf(" -m mark ! --mark %#x/%#x", uint32(m), mask) }
func connmark(m, bits packet.Mark) string {
	return fmt.Sprintf(" -m connmark --mark %#x/%#x", uint32(m), uint32(bits))
}
func connIs(m packet.Mark) string { return connmark(m, packet.MarkMask) }
func steers(m packet.Mark) string { return connmark(m, packet.MarkSteer) }
func connIsNot(m packet.Mark) string {
	return fmt.Sprintf(" -m connmark ! --mark %#x/%#x", uint32(m), mask)
}
func setConnmark(m, bits packet.Mark) string {
	return fmt.Sprintf("CONNMARK --set-xmark %#x/%#x", uint32(m), uint32(bits))
}
func setMark(m packet.Mark) string { return fmt.Sprintf("MARK --set-xmark %#x/%#x", uint32(m), mask) }
