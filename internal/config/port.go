package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"nfqfw/rules"
)

// portRange reads an element of "port": a number, a range or a service.
func portRange(v any) (rules.PortRange, error) {
	switch v := v.(type) {
	case int64:
		if v < 1 || v > math.MaxUint16 {
			return rules.PortRange{}, fmt.Errorf("%d is not a port (1-65535)", v)
		}
		return rules.PortRange{First: uint16(v), Last: uint16(v)}, nil
	case string:
		return parsePorts(v)
	}
	return rules.PortRange{}, wrongType(v, "a port")
}

func parsePorts(s string) (rules.PortRange, error) {
	if p, ok := rules.ServicePort(s); ok {
		return rules.PortRange{First: p, Last: p}, nil
	}
	if s == "" || strings.Trim(s, "0123456789-") != "" {
		return rules.PortRange{}, fmt.Errorf("%s is not a port (1-65535), a range (8000-8010) or a known service%s",
			shown(s), DidYouMean(s, rules.ServiceNames()))
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, err := parsePort(first)
	if err != nil {
		return rules.PortRange{}, err
	}
	b, err := parsePort(last)
	if err != nil {
		return rules.PortRange{}, err
	}
	if a > b {
		return rules.PortRange{}, fmt.Errorf("%s is a range from its end to its start", shown(s))
	}
	return rules.PortRange{First: a, Last: b}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is not a port (1-65535)", shown(s))
	}
	return uint16(n), nil
}
