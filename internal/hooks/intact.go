package hooks

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// Intact says whether the hooks are there as Install left them. What others have
// before, behind and between our jumps is no damage; what they did to our chains is.
func (h *Hooks) Intact(ctx context.Context) (bool, error) {
	for f, want := range h.standing {
		have, err := read(ctx, f)
		if err != nil {
			return false, err
		}
		if !want.whole || !maps.EqualFunc(want.installed, have, presence.same) {
			return false, nil
		}
	}
	return true, nil
}

// standing are the hooks that were put in, as the tool shows them.
type standing struct {
	installed
	whole bool // nobody has taken any out before they were looked at
}

// stand notes what a text has put in.
func (h *Hooks) stand(ctx context.Context, f Family, text string) error {
	present, err := read(ctx, f)
	if err != nil {
		return err
	}
	h.standing[f] = standing{present, present.size() == written(text)}
	return nil
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
