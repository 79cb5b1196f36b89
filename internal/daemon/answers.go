package daemon

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"nfqfw/internal/bpf"
	"nfqfw/internal/table"
	"nfqfw/rules"
)

// An interface on which the kernel has answered nobody for unusedTime is left alone again;
// one that cannot be answered on is not tried again before that time is over, and neither
// are lists that are too long.
const (
	unusedTime = 10 * time.Second
	relistTime = time.Minute
)

// answerer has the kernel answer SYNs on the interfaces where the engine lets it, and knows
// whom rules and tables name. It is safe for concurrent use.
type answerer struct {
	begun chan struct{} // has room for one: there is an interface to attach to

	mu      sync.Mutex
	cookies *bpf.Cookies
	used    map[uint32]time.Duration // when the engine last let it, of interfaces that it was attached to, or could not be
	listed  map[netip.Prefix]uint64  // the number of each listing, of those that were listed last
	last    uint64                   // of these numbers
	over    bool                     // there is one that could not be listed
	retry   time.Duration            // when that is tried again
	closed  bool                     // it is attached to no interface any more
}

// openAnswerer has the kernel answer SYNs, if the process may.
func (d *daemon) openAnswerer() error {
	c, err := bpf.OpenCookies(randomKey()[0])
	if err != nil {
		return err
	}
	if err := d.programs.Demand(c); err != nil {
		return errors.Join(err, c.Close())
	}
	d.answerer = &answerer{begun: make(chan struct{}, 1), cookies: c, used: make(map[uint32]time.Duration), listed: make(map[netip.Prefix]uint64)}
	d.engine.SetAnswers(c.Table, bpf.Now()-d.now())
	d.relist()
	return nil
}

// closeAnswerer has the kernel answer no more. Others may be at the answerer yet.
func (d *daemon) closeAnswerer() error {
	a := d.answerer
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	return a.cookies.Detach(func(uint32) bool { return true })
}

// relist has the kernel answer nobody that a rule or a table names now. What no rule and no
// table names any more is listed until then: that is asked about, as ever.
func (d *daemon) relist() {
	a := d.answerer
	if a == nil {
		return
	}
	began := a.begin()
	var list []netip.Prefix
	add := func(p netip.Prefix) { list = append(list, p) }
	rules.Named(d.config.Load().Rules, add)
	for _, t := range d.tables.Tables() {
		for e := range t.Entries {
			if add(e.Prefix); len(list) > bpf.MaxListed {
				break
			}
		}
	}
	complete := a.become(list, began, d.now()+relistTime)
	d.engine.Answering(d.now(), complete)
	if !complete {
		d.log.Info("each SYN waits for user space: rules and tables name more than the kernel is told", "prefixes", len(list), "limit", bpf.MaxListed)
	}
}

// begin is the number of the last listing so far.
func (a *answerer) begin() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// become lists these, and none of those that were listed until some number and are not
// among them. It says whether all that is to be listed is.
func (a *answerer) become(list []netip.Prefix, began uint64, retry time.Duration) (complete bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over, a.retry = len(list) > bpf.MaxListed, retry
	if a.over {
		return false
	}
	wanted := make(map[netip.Prefix]struct{}, len(list))
	for _, p := range list {
		wanted[p] = struct{}{}
	}
	for p, number := range a.listed {
		if _, ok := wanted[p]; !ok && number <= began && a.cookies.Unlist(p) == nil {
			delete(a.listed, p)
		}
	}
	for p := range wanted {
		a.list(p)
	}
	return !a.over
}

// list lists a prefix.
func (a *answerer) list(p netip.Prefix) {
	a.last++
	if _, ok := a.listed[p]; ok {
		a.listed[p] = a.last
		return
	}
	if a.over = a.over || a.cookies.List(p) != nil; !a.over {
		a.listed[p] = a.last
	}
}

// listChange follows a change of a table, whose lock is held.
func (d *daemon) listChange(t *table.Table, p netip.Prefix) {
	a := d.answerer
	if a == nil {
		return
	}
	if _, there := t.Entry(p); !there {
		return
	}
	a.mu.Lock()
	before := a.over
	a.list(p)
	ends := a.over && !before
	a.mu.Unlock()
	if ends {
		d.engine.Answering(d.now(), false)
	}
}

// answerOn has the kernel answer on the interfaces where the engine lets it, and on others no
// more.
func (d *daemon) answerOn() {
	a := d.answerer
	if a == nil {
		return
	}
	a.cookies.Table.SetSole(d.interfaces.sole())
	d.engine.AnswersOn(func(inDev uint32) { a.use(d, inDev) })
	now := d.now()
	a.mu.Lock()
	unused := func(ifindex uint32) bool { return now >= a.used[ifindex]+unusedTime }
	if err := a.cookies.Detach(unused); err != nil {
		d.failures.Do(func() { d.log.Warn("SYNs are answered in the kernel no more", "err", err) })
	}
	for ifindex := range a.used {
		if unused(ifindex) {
			delete(a.used, ifindex)
		}
	}
	again := a.over && now >= a.retry
	a.mu.Unlock()
	if again {
		d.relist()
	}
}

// tellBegun has the ticker look where the kernel is to answer, if that is news.
func (d *daemon) tellBegun() {
	if d.engine.AnswersBegun() {
		wake(d.answerer.begun)
	}
}

// answersBegun is where tellBegun is heard.
func (d *daemon) answersBegun() <-chan struct{} {
	if d.answerer == nil {
		return nil
	}
	return d.answerer.begun
}

// use attaches the program to an interface, unless it is, or could not be a while ago.
func (a *answerer) use(d *daemon, ifindex uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, known := a.used[ifindex]
	in := d.interfaces.link(ifindex)
	attached := a.cookies.Attached(ifindex)
	if !attached && (known || !in.ethernet || a.closed) {
		return
	}
	a.used[ifindex] = d.now()
	if attached {
		return
	}
	if err := a.cookies.Attach(ifindex); err != nil {
		d.failures.Do(func() {
			d.log.Warn("SYNs that come in by an interface wait for user space", "interface", in.name, "err", err)
		})
		return
	}
	d.log.Info("SYNs are answered in the kernel while there is a flood", "interface", in.name)
}
