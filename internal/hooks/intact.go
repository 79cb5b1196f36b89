package hooks

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// Intact says whether the hooks are there as they were put in. What others have before,
// behind and between our jumps is no damage; what they did to our chains is.
//
// How the tool shows them it has to learn when it is first asked. Then it goes by how
// many rules there are; more may be an older version's.
func (h *Hooks) Intact(ctx context.Context) (bool, error) {
	families, err := kernelFamilies()
	if err != nil {
		return false, err
	}
	for _, f := range families {
		have, err := read(ctx, f)
		if err != nil {
			return false, err
		}
		want, seen := h.standing[f]
		if !seen && have.size() >= written(text(h.config, f, nil, h.timestamps)) {
			want = have
			h.standing[f] = have
		}
		if want == nil || !maps.EqualFunc(want, have, presence.same) {
			return false, nil
		}
	}
	return true, nil
}

// size is how many rules there are.
func (p installed) size() (n int) {
	for _, of := range p {
		n += len(of.jumps) + len(of.rules)
	}
	return n
}

// written is how many rules a text adds. None of them is one that the tool makes
// several of.
func written(text string) (n int) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, "-I ") {
			n++
		}
	}
	return n
}

// same says whether two tables have the same of ours. The order of chains has no
// meaning.
func (p presence) same(q presence) bool {
	return slices.Equal(p.jumps, q.jumps) && slices.Equal(slices.Sorted(slices.Values(p.chains)), slices.Sorted(slices.Values(q.chains))) &&
		slices.Equal(byChain(p.rules), byChain(q.rules))
}

// byChain sorts rules by their chains, and leaves those of one in order.
func byChain(rules []string) []string {
	chain := func(rule string) string { name, _, _ := strings.Cut(rule, " "); return name }
	return slices.SortedStableFunc(slices.Values(rules), func(a, b string) int { return strings.Compare(chain(a), chain(b)) })
}
