// Package hooks installs the iptables rules that bring packets to the kernel
// queues, and takes them away.
//
// Only TCP in the scope of the rules comes to a queue, and of that only what
// changes a connection's state; Rules gives the text, and the comments in
// text.go say which rule does what. All rules stand in chains of our own,
// named NFQFW-…, to which the built-in chains jump first of all. The bits of
// packet.MarkMask in packet mark and connmark are ours; the hooks keep all
// other bits.
//
// Two chains may stay when the hooks go: Translation, which no packet visits, for that
// its rules are there has the kernel translate; and Closing, which only FINs visit.
//
// Installing replaces what is there of an earlier run, however it ended, in
// one transaction per table, so that at no time packets go by unseen or find
// half of the chains. Removing works after half an installation, and leaves
// what others installed. The package uses iptables because the kernel's native
// nftables queue is missing from common kernels; both back ends of iptables do.
//
// Block rules that the kernel can carry out by itself (drop.go) refer to sets, which
// internal/ipset makes: they are there before the hooks are, and stay until these are
// out.
//
// It refuses to run without the tools. That the kernel has no IPv6 is no error:
// then there is no IPv6 traffic to hook.
package hooks

import (
	"context"
	"log/slog"
	"os/exec"
	"strings"

	"nfqfw/internal/ipset"
	"nfqfw/rules"
)

// Config is what the hooks depend on.
type Config struct {
	Rules      []rules.Rule // their interfaces, addresses and ports are the scope, unless the kernel carries them out by itself; names of interfaces are not checked
	Finishing  []rules.Rule // are in scope too: rules that have vanished, and whose connections go on
	FirstQueue uint16
	LastQueue  uint16    // at least FirstQueue; packets are spread over all queues between
	Open       bool      // new connections pass while nobody listens to the queues
	Programs   *Programs // nil: the kernel lets nothing pass without asking, and copies by NFLOG
}

// Programs are the paths of pinned programs of bpf that rules ask (internal/bpf).
type Programs struct {
	Opens   string // is a SYN, or SYN+ACK, granted?
	Admits  string // admit the connection of an ACK, if that is granted
	Records string // tell the engine of a packet; no if that cannot be done

	Unproven string // is this ACK, of no connection, to be dropped, for it repeats no cookie?
}

// Family is a version of IP.
type Family uint8

// The versions.
const (
	IPv4 Family = iota
	IPv6
)

// Families are all of them, in the order of installation.
var Families = []Family{IPv4, IPv6}

// String names the version.
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Hooks installs and removes the rules of one configuration.
type Hooks struct {
	config     Config
	log        *slog.Logger
	timestamps bool                 // they are translated, by every version of IP
	standing   map[Family]installed // as Intact saw them first
	wereClosed bool
	translated bool // timestamps were, all the time
}

// New makes hooks; it installs nothing.
func New(c Config, log *slog.Logger) *Hooks {
	return &Hooks{config: c, log: log, standing: make(map[Family]installed)}
}

// Check says whether the tools are there that Install and Remove run. It runs
// none.
func (h *Hooks) Check() error {
	families, err := h.families()
	if err != nil {
		return err
	}
	for _, f := range families {
		for _, verb := range []string{"save", "restore"} {
			if _, err := exec.LookPath(f.command(verb)); err != nil {
				return notFound(f.command(verb))
			}
		}
	}
	if len(Tables(h.config.Rules)) > 0 {
		return ipset.Check()
	}
	return nil
}

// Install replaces the hooks that may be there by those of the configuration.
// If iptables refuses them, it tries again without the programs of bpf, and then without
// the target SYNPROXY, which not every kernel has.
//
// After an error the hooks of one version of IP may be new, those of the other
// old or missing; Install can be called again, and Remove tidies up.
func (h *Hooks) Install(ctx context.Context) error {
	families, err := h.families()
	if err != nil {
		return err
	}
	h.forgo(ctx)
	err = h.install(ctx, families, true)
	if err != nil && ctx.Err() == nil && h.config.Programs != nil {
		h.log.Warn("each SYN waits for user space: rules that ask BPF cannot be installed", "err", err)
		h.config.Programs = nil
		err = h.install(ctx, families, true)
	}
	h.timestamps = err == nil
	if err != nil && ctx.Err() == nil {
		lacking := err
		if err = h.install(ctx, families, false); err == nil {
			h.log.Warn("no TCP timestamps with the SYN proxy: a rule with the target SYNPROXY cannot be installed", "err", lacking)
		}
	}
	if err != nil {
		return err
	}
	for _, f := range families {
		h.log.Info("hooks installed", "family", f.String())
	}
	return nil
}

// forgo does without the programs where iptables' back end is the legacy one. It looks each
// of them up again whenever anybody changes a table: should one be gone, nobody could.
func (h *Hooks) forgo(ctx context.Context) {
	if h.config.Programs == nil {
		return
	}
	version, err := run(ctx, "", IPv4.command("save"), "--version")
	if err == nil && strings.Contains(version, "legacy") {
		h.log.Info("each SYN waits for user space: iptables has its legacy back end")
		h.config.Programs = nil
	}
}

// Grants says whether the hooks ask the programs of the configuration.
func (h *Hooks) Grants() bool { return h.config.Programs != nil }

// Text is what Install installs, for all versions of IP and a kernel that has all it may
// have: hooks of the same text are the same.
func (h *Hooks) Text() string { return Rules(h.config, IPv4) + Rules(h.config, IPv6) }

// Inherit is for hooks that are in already, because others of the same text were
// installed by another process.
func (h *Hooks) Inherit(timestamps bool) { h.timestamps = timestamps }

// Timestamps says whether the hooks that are in have the kernel translate the
// timestamps of the SYN proxy's connections.
func (h *Hooks) Timestamps() bool { return h.timestamps }

// WereClosed says whether Install has found hooks that kept new connections out while
// nobody listened.
func (h *Hooks) WereClosed() bool { return h.wereClosed }

// Translated says whether the last Install has found that the kernel went on to translate
// timestamps, for all versions of IP.
func (h *Hooks) Translated() bool { return h.translated }

func (h *Hooks) install(ctx context.Context, families []Family, timestamps bool) error {
	h.translated = true
	for _, f := range families {
		present, err := read(ctx, f)
		if err != nil {
			return err
		}
		h.translated = h.translated && present["mangle"].translates()
		h.wereClosed = h.wereClosed || present["mangle"].closed()
		if err := restore(ctx, f, text(h.config, f, present, timestamps)); err != nil {
			return err
		}
	}
	clear(h.standing)
	return nil
}

// Remove takes the hooks away, whichever configuration they are from. It is no
// error if there are none.
func (h *Hooks) Remove(ctx context.Context) error { return h.remove(ctx, removal) }

// Retire takes the hooks away, but for the chains Translation and Closing: the kernel
// goes on to track the connections that are open, and to translate for them, and it
// remembers how they close. No packet is judged.
func (h *Hooks) Retire(ctx context.Context) error { return h.remove(ctx, retirement) }

func (h *Hooks) remove(ctx context.Context, text func(installed) string) error {
	families, err := h.families()
	if err != nil {
		return err
	}
	for _, f := range families {
		present, err := read(ctx, f)
		if err != nil {
			return err
		}
		if present.empty() {
			continue
		}
		if err := restore(ctx, f, text(present)); err != nil {
			return err
		}
		h.log.Info("hooks removed", "family", f.String())
	}
	return nil
}

// families are the versions of IP the kernel has.
func (h *Hooks) families() ([]Family, error) {
	list, err := kernelFamilies()
	if err == nil && len(list) < len(Families) {
		h.log.Warn("the kernel has no IPv6, hooks are for IPv4 only")
	}
	return list, err
}
