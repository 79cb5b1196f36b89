package pfconf

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// option translates what follows "set".
func (im *importer) option(p *parser, b *block) {
	switch name := p.text("an option"); name {
	case "timeout":
		p.list(func() { p.timeout(p.text("a timeout"), im.setTimeout(b), im.lacking(b)) })
	case "optimization":
		im.optimization(p, b)
	case "limit":
		p.list(func() { im.limit(p, b) })
	case "syncookies":
		im.syncookies(p, b)
	case "block-policy":
		im.blockPolicy = p.oneOf("block-policy", "drop", "return")
	case "fail-policy":
		im.failPolicy = p.oneOf("fail-policy", "drop", "return")
	case "skip":
		im.skip(p, b)
	default:
		im.otherOption(p, b, name)
	}
	if !p.atEnd() {
		p.unexpected("the end of the line")
	}
	if len(b.comments) > 0 {
		im.head = append(im.head, *b)
	}
}

func (im *importer) setTimeout(b *block) func(entry) {
	return func(e entry) { im.timeouts = set(im.timeouts, b.from, e) }
}

func (im *importer) lacking(b *block) func(string) {
	return func(what string) { im.lack(b, what) }
}

// oneOf reads one of several words.
func (p *parser) oneOf(what string, words ...string) string {
	text := p.text("one of " + strings.Join(words, ", "))
	if text != "" && !slices.Contains(words, text) {
		p.fail(what, "%s is not one of %s", shown(text), strings.Join(words, ", "))
	}
	return text
}

// optimization sets all timeouts of TCP, also those that were set before.
func (im *importer) optimization(p *parser, b *block) {
	preset := p.oneOf("optimization", "default", "normal", "high-latency", "satellite", "aggressive", "conservative")
	if preset == "default" {
		preset = "normal"
	}
	isTCP := func(s setting) bool { return strings.HasPrefix(s.key, "tcp.") }
	if slices.ContainsFunc(im.timeouts, isTCP) {
		im.note(b, "as in pf, this sets the timeouts of TCP that were set before")
	}
	im.timeouts = slices.DeleteFunc(im.timeouts, isTCP)
	im.timeouts = set(im.timeouts, b.from, entry{"optimization", preset})
}

// limitNames are nfqfw's words for what pf limits, and pf's other words.
var limitNames = map[string]string{
	"states": "states", "src-nodes": "src_nodes", "table-entries": "table_entries",
	"frags": "", "tables": "", "anchors": "", "eth-anchors": "", "pktdelay-pkts": "",
}

// limit reads one of "set limit".
func (im *importer) limit(p *parser, b *block) {
	name := p.text("a limit")
	key, known := limitNames[name]
	switch {
	case key != "":
		im.limits = set(im.limits, b.from, entry{key, p.number(name, 0, math.MaxInt32)})
	case known:
		p.number(name, 0, math.MaxUint32)
		im.lack(b, "limit "+name)
	case name != "":
		p.fail("limit", "%s is not limited by pf", shown(name))
		p.skipValue()
	}
}

// syncookies reads the mode and, for adaptive, the marks.
func (im *importer) syncookies(p *parser, b *block) {
	mode := p.oneOf("syncookies", "never", "always", "adaptive")
	im.cookies = set(im.cookies, b.from, entry{"mode", mode})
	if mode != "adaptive" || !p.peek().is("(") {
		return
	}
	p.group(func() {
		mark := p.oneOf("syncookies", "start", "end")
		share := p.text("a percentage")
		n, err := strconv.ParseFloat(strings.TrimSuffix(share, "%"), 64)
		if !strings.HasSuffix(share, "%") || err != nil || n < 0 || n > 100 {
			p.fail("syncookies", `%s is not a percentage (such as "25%%")`, shown(share))
		}
		im.cookies = set(im.cookies, b.from, entry{mark, share})
	})
}

// skip makes a rule of the interfaces that pf does not look at, before all others.
func (im *importer) skip(p *parser, b *block) {
	p.expect("on")
	p.list(func() {
		switch i := p.iface(); {
		case i.name == "" || isLoopback(i.name):
		case i.negated:
			im.lack(b, "skip on ! "+i.name)
		default:
			im.noteGroup(b, i)
			im.skipped = append(im.skipped, i.name)
			im.skippedFrom = append(im.skippedFrom, b.from)
		}
	})
}

// otherOptions are those of pf's that nfqfw has no use for.
var otherOptions = []string{
	"ruleset-optimization", "loginterface", "hostid", "debug", "fingerprints", "reassemble", "require-order",
	"state-policy", "state-defaults", "keepcounters",
}

func (im *importer) otherOption(p *parser, b *block, name string) {
	if !slices.Contains(otherOptions, name) {
		if name != "" {
			p.fail("set", "%s is not an option of pf", shown(name))
		}
		p.pos = len(p.tokens)
		return
	}
	rest := join(p.tokens[p.pos:])
	p.pos = len(p.tokens)
	im.lack(b, cut("set "+name+" "+rest))
}
