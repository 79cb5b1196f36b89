package engine

import (
	"errors"
	"sync/atomic"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

// Seeds are an engine's randomness, to be kept from clients. A run is repeated with
// the same.
type Seeds struct {
	NewerKey cookie.Key // of the cookies
	OlderKey cookie.Key
	Hash     uint64 // of the tables
}

// Engine decides about packets. It is safe for concurrent use.
type Engine struct {
	rules    atomic.Pointer[ruleset]
	draining atomic.Bool
	stamps   atomic.Bool // the kernel can translate timestamps
	table    *conntrack.Table
	sources  *conntrack.Sources
	nodes    conntrack.Nodes // sources that count for all rules that track globally
	jar      *cookie.Jar
	servers  *synproxy.Servers
	grants   *grants  // nil: the kernel asks about every SYN
	answers  *answers // nil: and answers none
	counters Counters
	total    pressure
	killed   atomic.Int64 // states in the table that were killed
	leaving  atomic.Int64 // states in the table that were killed, or whose time is over

	elsewhere atomic.Uint32 // shards in which makeRoomElsewhere has looked: it goes on with the next
	barren    atomic.Int64  // the time until which it need not

	// Tick's own, which only one goroutine calls:
	turn     int
	due      []Decision
	released []*conntrack.Source
}

// Counters count packets since the start.
type Counters struct {
	Passed  atomic.Uint64
	Reasons [packet.ReasonCount]atomic.Uint64

	Evicted         atomic.Uint64 // states that made room for others
	InKernel        atomic.Uint64 // connections that the kernel has admitted
	CookiesSent     atomic.Uint64
	CookiesInKernel atomic.Uint64 // of these, those that the kernel has sent
	CookiesValid    atomic.Uint64
	CookiesInvalid  atomic.Uint64 // ACKs that would have to repeat a cookie, and do not
}

// New makes an engine without states.
func New(c Config, r Seeds) *Engine {
	e := newEngine(c.States, c.SrcNodes, r)
	e.rules.Store(&ruleset{match: rules.New(nil, nil)})
	e.Reload(0, c)
	return e
}

// newEngine makes an engine without rules.
func newEngine(states, srcNodes int, r Seeds) *Engine {
	sources := conntrack.NewSources(srcNodes, r.Hash)
	return &Engine{
		table: conntrack.NewTable(states, sources, r.Hash), sources: sources,
		jar: cookie.NewJar(r.NewerKey, r.OlderKey), servers: synproxy.NewServers(),
	}
}

// SetTimestamps says whether the kernel can translate timestamps. Until it is said
// to, the SYN proxy offers none.
func (e *Engine) SetTimestamps(on bool) { e.stamps.Store(on) }

// Drain keeps state where rules say synproxy, from now on: a handshake of the
// SYN proxy's could not be finished without the engine. Those under way go on;
// Shaking tells when they are done.
func (e *Engine) Drain(now time.Duration) {
	e.draining.Store(true)
	e.stopAnswers(now)
}

// Shaking says whether the SYN proxy has a handshake under way.
func (e *Engine) Shaking() bool {
	for i := range e.table.Shards() {
		if e.shakesIn(i) {
			return true
		}
	}
	return false
}

func (e *Engine) shakesIn(i int) (found bool) {
	sh := e.table.LockShard(i)
	defer sh.Unlock()
	sh.Each(func(s *conntrack.State) { found = found || s.ShakingHands() })
	return found
}

// Counters are the engine's own; they go on counting.
func (e *Engine) Counters() *Counters { return &e.counters }

// RotateKey gives the SYN cookies a new key, and retires the older one.
func (e *Engine) RotateKey(k cookie.Key) {
	e.jar.Rotate(k)
	if e.answers != nil {
		e.answers.table.SetKeys(e.jar.Keys())
	}
	e.total.rotate()
	for _, x := range e.rules.Load().byNumber {
		x.pressure.rotate()
	}
}

// visit is one look at one packet, under the lock of its connection's shard.
type visit struct {
	*Engine
	now   time.Duration
	p     *packet.Packet
	d     *Decision
	shard *conntrack.Shard
	state *conntrack.State // nil: none
	dir   conntrack.Dir
	rule  *entry           // what the packet's tuple matches; set if there is no state, or for a SYN
	trial *entry           // a block rule that only counts, and would have refused the packet
	over  conntrack.Excess // of a SYN's source

	source   *conntrack.Source // held for the state to bind
	wants    bool              // hold this source for a state of this rule, then look again
	wanted   conntrack.SourceKey
	wantedBy *entry
	refused  error                // why it cannot be held
	removed  [2]*conntrack.Source // of states removed
	evicted  *conntrack.Source    // of one that made room
	orphan   bool                 // the packet belongs to an entry that is removed
	kept     bool                 // one of them was kept, and the kernel may have an entry of it
}

// Handle decides about a packet, or takes note of one that has passed. If the decision
// orders a query, the caller puts the answer into p.Kernel and calls again: nothing has
// happened yet. So it is if the decision says Again.
func (e *Engine) Handle(now time.Duration, p *packet.Packet, d *Decision) {
	*d = Decision{}
	v := visit{Engine: e, now: now, p: p, d: d}
	if p.IsSYN() {
		v.matchSYN()
	}
	v.look()
	for v.wants {
		v.holdSource()
		v.look()
	}
	v.letGo()
	v.count()
}

func (v *visit) holdSource() {
	v.wants = false
	v.table.Drop(v.source, v.now) // the state it was for is another by now
	x := v.wantedBy
	v.source, v.refused = v.sources.Acquire(v.wanted, v.nodesOf(x), &x.limits, v.now, false)
	if x.CountOnly && errors.Is(v.refused, conntrack.ErrNodes) {
		source, err := v.sources.Acquire(v.wanted, v.nodesOf(x), &x.limits, v.now, true)
		v.source = source
		if err != nil {
			v.refused = err
		}
	}
}

// tryHoldSource holds the source at once, if nobody else is at the sources just now and
// there is room. It saves a second look, and it says whether it did.
func (v *visit) tryHoldSource(x *entry, key conntrack.SourceKey) bool {
	if v.source != nil {
		return false
	}
	v.source = v.sources.TryAcquire(key, v.nodesOf(x), &x.limits, v.now)
	return v.source != nil
}

// matchSYN finds out, before any lock of the table, what a SYN will need.
func (v *visit) matchSYN() {
	v.rule, v.trial = v.rules.Load().find(v.p)
	if x := v.rule; x != nil && x.limits.Any() {
		v.over = v.sources.Excess(x.sourceKey(v.p.Src), v.nodesOf(x), &x.limits, v.now)
	}
}

func (v *visit) look() {
	v.shard = v.table.Lock(v.p.Tuple)
	defer v.shard.Unlock()
	v.state, v.dir = v.shard.Find(v.p.Tuple)
	if v.p.Copied {
		v.observe()
		return
	}
	if v.state != nil && v.expired() {
		v.remove()
	}
	if v.state != nil && v.replaces() {
		v.replace()
	}
	switch {
	case v.state == nil:
		v.open()
	case v.state.ShakingHands():
		v.shakeHands()
	default:
		v.track()
	}
	if v.state != nil {
		v.press(v.state, v.now)
	}
}

// letGo gives back what is not needed, now that no shard is locked.
func (v *visit) letGo() {
	v.table.Drop(v.source, v.now)
	v.table.Drop(v.evicted, v.now)
	for _, s := range v.removed {
		v.table.Drop(s, v.now)
	}
	if v.grants != nil && v.grants.drops.Load() {
		v.dropSources(v.now)
	}
}

func (v *visit) count() {
	switch {
	case v.d.Offload.Op == packet.OffloadQuery, v.d.Again:
	case v.d.Verdict == packet.Pass:
		v.counters.Passed.Add(1)
	default:
		v.counters.Reasons[v.d.Reason].Add(1)
	}
}

// stateRule is the rule that made the state.
func (v *visit) stateRule() *entry { return v.ruleOf(v.state) }

// lifetime is how long the state lives after it was refreshed, with as many states as
// there are now. Those do not count that have to go: else more than the excess would.
func (e *Engine) lifetime(s *conntrack.State) time.Duration { return e.lifetimeBy(e.ruleOf(s), s) }

func (e *Engine) lifetimeBy(x *entry, s *conntrack.State) time.Duration {
	states := e.table.Len() - int(e.leaving.Load())
	if x.lifetimes.OwnScaling {
		states = int(x.states.Load() - x.leaving.Load())
	}
	return x.lifetimes.Scale(x.lifetimes.Timeouts[s.Timeout], states)
}

// countLeaving counts the state among those that have to go, if it is one.
func (e *Engine) countLeaving(s *conntrack.State, n int64) {
	if s.Leaving() {
		e.leaving.Add(n)
		e.ruleOf(s).leaving.Add(n)
	}
}

// pastDue says whether the state's time is over. One that was killed goes when both
// sides have been asked for the last time, however short lifetimes are.
func (e *Engine) pastDue(s *conntrack.State, now time.Duration) bool {
	return !s.Killed && now >= s.Refreshed+e.lifetime(s)
}

// mayBeHeld says whether the server may hold a connection that was admitted.
func mayBeHeld(s *conntrack.State) bool {
	return s.Counts() || s.Admitted() && s.Dst.State == conntrack.Established
}

// expired says whether the state's time is over. While the payload passes in
// the kernel, a packet that belongs to its entry shows that it is not.
func (v *visit) expired() bool {
	s := v.state
	carries := s.Offloaded && v.p.Conn == packet.ConnEstablished
	held := s.Offloaded && mayBeHeld(s) && !s.Handshake.Ending // Tick ends it, which takes more than to forget it
	return v.pastDue(s, v.now) && !carries && !held
}

// standsFor says whether the kernel has an entry that must not outlive the
// state: one that translates numbers, or that was made for it, of which the kernel's
// own SYN proxy would take the next connection for its own; one that lets the packets
// of a connection pass that was never admitted, or was reset; or one that would hide
// the next connection of its tuple, when that is proxied.
func (e *Engine) standsFor(s *conntrack.State) bool {
	switch {
	case s.Proxied, s.Made:
		return s.Offloaded
	case s.Offloaded && e.ruleOf(s).State == rules.Adaptive:
		return true
	}
	return s.Opening() || s.Src.State == conntrack.TimeWait
}

// deleteEntry is the order to remove the kernel's entry of a connection.
func deleteEntry(t packet.Tuple) packet.Offload {
	return packet.Offload{Op: packet.OffloadDelete, Tuple: t}
}

// queryEntry is the order to look at the kernel's entry of a connection.
func queryEntry(t packet.Tuple) packet.Offload {
	return packet.Offload{Op: packet.OffloadQuery, Tuple: t}
}

// release gives back the slot of a connection whose server has closed it, or that was
// reset, if the rule counts what servers hold.
func (x *entry) release(s *conntrack.State) {
	if s.Dst.State > conntrack.Established && x.CountsServer() {
		s.Release()
	}
}

// remove takes the packet's state out of the table, and the kernel's entry with
// it if that stands for the state.
func (v *visit) remove() {
	begun := v.p.Flags.Has(packet.SYN) && v.p.Conn == packet.ConnEstablished // with this SYN the entry begins anew
	if v.standsFor(v.state) && (!begun || v.state.Proxied || v.state.Made) {
		v.d.Offload = deleteEntry(v.state.Tuple)
		v.orphan = begun
	}
	v.kept = v.kept || v.state.Offloaded && !v.state.Proxied
	src := v.forget(v.shard, v.state)
	if v.over.Limit != conntrack.LimitNone && src != nil && src.Key == v.rule.sourceKey(v.p.Src) {
		v.over = src.Excess(&v.rule.limits, v.now)
	}
	v.dropLater(src)
	v.state = nil
}

// dropLater has letGo drop a source that a state held.
func (v *visit) dropLater(src *conntrack.Source) {
	if v.removed[0] == nil {
		v.removed[0] = src
	} else {
		v.removed[1] = src
	}
}

// forget takes a state out of the table, and returns the source it held.
func (e *Engine) forget(sh *conntrack.Shard, s *conntrack.State) *conntrack.Source {
	e.relieve(s)
	e.leave(s)
	if s.Killed {
		e.killed.Add(-1)
	}
	e.countLeaving(s, -1)
	e.ruleOf(s).states.Add(-1)
	return sh.Remove(s)
}

// leave takes a state out of all limits, as if it were removed.
func (e *Engine) leave(s *conntrack.State) {
	if s.Admitted() {
		e.ruleOf(s).admitted.Add(-1)
	}
	s.Leave()
}

// insert puts a state into the table for the packet's connection.
func (v *visit) insert(s *conntrack.State) bool {
	s.Rule = v.rule.id
	state, err := v.shard.Insert(s)
	if err != nil && v.makeRoom() {
		state, err = v.shard.Insert(s)
	}
	if err != nil {
		limit := uint64(v.table.Limit())
		v.d.drop(packet.ReasonMemory)
		v.note(v.rule, Refusal{Reason: packet.ReasonMemory, Count: limit, Limit: limit, Enforced: true})
		return false
	}
	v.rule.states.Add(1)
	v.rule.created.Add(1)
	v.state = state
	return true
}

// makeRoom removes a state that matters less than a new one, if there is any.
func (v *visit) makeRoom() bool {
	if s := v.shard.Expendable(); s != nil {
		v.evict(v.shard, s)
		return true
	}
	return v.makeRoomElsewhere()
}

// If there are more states than in smallTable, room is looked for in moreShards shards
// beside the packet's own. Where there was none nobody looks again for barrenTime: a table
// full of established connections is to cost no look for each SYN.
const (
	smallTable = 1000
	moreShards = 16
	barrenTime = 10 * time.Millisecond
)

// makeRoomElsewhere is makeRoom for when all that is in the packet's own shard stays, as
// it may while other shards are full of what a flood has left.
func (v *visit) makeRoomElsewhere() bool {
	if int64(v.now) < v.barren.Load() {
		return false
	}
	shards := v.table.Shards()
	if v.table.Len() > smallTable {
		shards = moreShards
	}
	for range shards {
		sh := v.table.TryLockShard(int(v.elsewhere.Add(1)) % v.table.Shards())
		if sh == nil {
			continue
		}
		s := sh.Expendable()
		if s != nil {
			v.evict(sh, s)
		}
		sh.Unlock()
		if s != nil {
			return true
		}
	}
	v.barren.Store(int64(v.now + barrenTime))
	return false
}

// evict removes a state to make room.
func (v *visit) evict(sh *conntrack.Shard, s *conntrack.State) {
	if v.standsFor(s) {
		v.d.Evicted = deleteEntry(s.Tuple)
	}
	v.evicted = v.forget(sh, s)
	v.counters.Evicted.Add(1)
}
