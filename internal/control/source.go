package control

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"nfqfw/rules"
)

// Source is a source as "nfqfw sources --json" shows it.
type Source struct {
	Source      netip.Prefix `json:"source"`      // a group of addresses, or one
	Rule        string       `json:"rule"`        // that it is counted under; empty: all rules that track globally
	Number      int          `json:"rule_number"` // from 1; 0: global, or the rule has vanished by a reload
	States      int          `json:"states"`      // connections that were admitted and have a state
	Connections int          `json:"connections"` // those that count for max_src_conn
	Recent      int          `json:"recent"`      // admitted in the last rate.seconds
	Rate        *Rate        `json:"rate"`        // null: no max_src_conn_rate
	Age         float64      `json:"age"`         // seconds
	Expires     *float64     `json:"expires"`     // seconds until it is forgotten; null while it has states
}

// Rate is at most so many connections in so long a time.
type Rate struct {
	Count   uint32  `json:"count"`
	Seconds float64 `json:"seconds"`
}

// WriteText writes the source as pfctl -s Sources does: a line, and with verbose 1
// (-v) another.
func (s *Source) WriteText(w io.Writer, verbose int) error {
	seconds := 0.0
	if s.Rate != nil {
		seconds = s.Rate.Seconds
	}
	_, err := fmt.Fprintf(w, "%s -> %s ( states %d, connections %d, rate %d.0/%ss )\n",
		rules.PrefixText(s.Source), s.anywhere(), s.States, s.Connections, s.Recent, decimal(seconds))
	if verbose > 0 && err == nil {
		_, err = fmt.Fprintf(w, "   age %s%s%s\n", clock(s.Age), s.expiry(), s.filterRule())
	}
	return err
}

// anywhere is what pf shows in place of a route.
func (s *Source) anywhere() string {
	if s.Source.Addr().Is4() {
		return netip.IPv4Unspecified().String()
	}
	return netip.IPv6Unspecified().String()
}

func (s *Source) expiry() string {
	if s.Expires == nil {
		return ""
	}
	return ", expires in " + clock(*s.Expires)
}

func (s *Source) filterRule() string {
	switch {
	case s.Rule == "":
		return ""
	case s.Number == 0:
		return fmt.Sprintf(", filter rule (%s, gone)", s.Rule)
	}
	return fmt.Sprintf(", filter rule %d (%s)", s.Number, s.Rule)
}

// decimal is a number with the digits it needs.
func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
