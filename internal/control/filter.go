package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"nfqfw/conntrack"
)

// StateFilter chooses states: those for which all holds that it says. The zero
// value chooses all.
type StateFilter struct {
	Rules     []string     `json:"rules,omitempty"` // of one of these rules
	Source    netip.Prefix `json:"source,omitzero"`
	Dest      Endpoint     `json:"destination,omitzero"`
	State     StatePattern `json:"state,omitzero"`
	Interface string       `json:"interface,omitempty"`
}

// Chooses says whether the filter leaves any state out.
func (f *StateFilter) Chooses() bool {
	return len(f.Rules) > 0 || f.Source.IsValid() || f.Dest != (Endpoint{}) || f.State != (StatePattern{}) || f.Interface != ""
}

// Endpoint is a network and a port of it. The zero value of either is any.
type Endpoint struct {
	Network netip.Prefix `json:"network,omitzero"`
	Port    uint16       `json:"port,omitempty"`
}

// Holds says whether an address and port are of the endpoint.
func (e *Endpoint) Holds(a netip.AddrPort) bool {
	return Within(e.Network, a.Addr()) && (e.Port == 0 || e.Port == a.Port())
}

// Within says whether a network holds an address; the invalid network holds all.
func Within(n netip.Prefix, a netip.Addr) bool { return !n.IsValid() || n.Contains(a) }

// ParseNetwork reads an address or a network.
func ParseNetwork(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(text); err == nil && a.Zone() == "" {
			a = a.Unmap()
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	if !p.IsValid() || p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("not an address or a network (192.0.2.10, 192.0.2.0/24, 2001:db8::/32)")
	}
	return p.Masked(), nil
}

// ParseEndpoint reads an address or network with or without a port, or a port
// alone: "192.0.2.0/24:80", "[2001:db8::10]:80", and "2001:db8::10[80]" as in pf,
// ":80".
func ParseEndpoint(text string) (e Endpoint, err error) {
	host, port, hasPort := cutPort(text)
	if host != "" || !hasPort {
		if e.Network, err = ParseNetwork(host); err != nil {
			return Endpoint{}, err
		}
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Endpoint{}, fmt.Errorf("%q is not a port (1-65535)", port)
		}
		e.Port = uint16(n)
	}
	return e, nil
}

// cutPort parts a port from what stands before it.
func cutPort(text string) (host, port string, ok bool) {
	inner, isBracketed := strings.CutPrefix(text, "[")
	switch {
	case isBracketed: // [2001:db8::10]:80
		host, rest, closed := strings.Cut(inner, "]")
		port, ok = strings.CutPrefix(rest, ":")
		if !closed || !ok && rest != "" {
			return text, "", false
		}
		return host, port, ok
	case strings.HasSuffix(text, "]"): // 2001:db8::10[80]
		host, port, ok = strings.Cut(strings.TrimSuffix(text, "]"), "[")
	case strings.Count(text, ":") == 1:
		host, port, ok = strings.Cut(text, ":")
	default:
		return text, "", false
	}
	return host, port, ok
}

// StatePattern is what a listing shows of the peers' states. An empty name is any
// state. While the SYN proxy shakes hands, it is the client's state that is shown.
type StatePattern struct{ Server, Client string }

// ParseStatePattern reads "server:client", of which one may be left out, or
// "PROXY:SRC" and "PROXY:DST". Lower case will do.
func ParseStatePattern(text string) (StatePattern, error) {
	text = strings.ToUpper(text)
	proxied, plain := peerNames()
	if slices.Contains(proxied, text) {
		return StatePattern{Client: text}, nil
	}
	server, client, ok := strings.Cut(text, ":")
	what := "not a pair of states"
	for _, name := range []string{client, server} {
		if name != "" && !slices.Contains(plain, name) {
			what = fmt.Sprintf("%q is not a state", name)
			ok = false
		}
	}
	if !ok || server+client == "" {
		return StatePattern{}, fmt.Errorf("%s; write SERVER:CLIENT, SERVER: or :CLIENT, of %s; or %s",
			what, strings.Join(plain, ", "), strings.Join(proxied, ", "))
	}
	return StatePattern{server, client}, nil
}

// peerNames are the names of the states in which the SYN proxy shakes hands, and of
// all others.
func peerNames() (proxied, plain []string) {
	for _, s := range conntrack.PeerStates() {
		if name := s.String(); strings.Contains(name, ":") {
			proxied = append(proxied, name)
		} else {
			plain = append(plain, name)
		}
	}
	return proxied, plain
}

// Matches says whether two peers' states are shown so.
func (p StatePattern) Matches(server, client conntrack.PeerState) bool {
	if p == (StatePattern{}) {
		return true
	}
	if client == conntrack.ProxySrc || client == conntrack.ProxyDst {
		return p.Server == "" && p.Client == client.String()
	}
	return (p.Server == "" || p.Server == server.String()) && (p.Client == "" || p.Client == client.String())
}

// String is what ParseStatePattern reads.
func (p StatePattern) String() string {
	if strings.Contains(p.Client, ":") {
		return p.Client
	}
	return p.Server + ":" + p.Client
}

// MarshalText makes the pattern a string in JSON.
func (p StatePattern) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText has written.
func (p *StatePattern) UnmarshalText(text []byte) (err error) {
	*p, err = ParseStatePattern(string(text))
	return err
}
