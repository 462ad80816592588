//go:build !race

package lockmodel

import (
	"fmt"
	"slices"
)

// The largest model.
const (
	maxMasters   = 3
	maxProcesses = 4
)

// A model is a room with its masters, its writers and its readers. The processes of a
// state are first the writers, then the readers.
//
// A process asks the masters one after another, in any order. Each answer may get lost,
// with and without what was asked for. A process may stop at any place for any time, or
// die. Time is not in the model, only what follows from it: an owner knows that its time
// is over before a master does, so a key of a live owner is gone from a minority at most.
// And a key lasts much longer than one process's questions to all masters, so it does not
// go as long as others ask what they began to ask before.
type model struct {
	masters, writers, readers int

	// flushes says that masters may lose their data. Then readers and writers need not
	// exclude each other: only commits are checked.
	flushes bool

	// without is a rule that the model leaves out, noRule for none.
	without rule

	// named says that steps tell their action, which takes most of the time.
	named bool
}

// A rule is one that the code follows.
type rule int

const (
	noRule           rule = iota
	quorum                // more than half of the masters decide
	refuseReaders         // a reader is refused while a writer has its key
	drain                 // a writer waits until no reader is inside
	drainByOwner          // a master whose key is another writer's does not count when a writer drains
	undo                  // an attempt that failed is undone
	expiry                // what a dead process has left expires
	marksExpire           // the mark of a refused reader expires
	fenceIsChecked        // a batch checks its fence token
	fenceIsShared         // the check locks the token's row until the batch's end
	generation            // a commit checks the job's generation
	generationLocked      // the check locks the job's row until the batch's end
	checkTime             // an owner whose time is over when all masters have answered does not enter
)

// The places at which a process is.
const (
	idle = iota
	asking
	draining  // a writer has its quorum
	fencing   // it takes a token
	inside    // a reader reads, or a writer is about to begin a batch
	writing   // the batch has checked its token
	moved     // the batch has moved the job's checkpoint
	committed // it is about to unlock
	undoing
	dead // for good
)

// The answers of a master.
const (
	unasked = iota
	yes
	no
	lost
)

// A master is one master's data, and what it has answered in each process's last round.
type master struct {
	owner  uint8 // 1 + the writer that has the key, 0 for none
	leases uint8 // the readers inside, as bits
	marks  uint8 // the refused readers, as bits
	said   [maxProcesses]uint8
}

// A state is comparable. Its masters are sorted, because they do the same.
type state struct {
	masters [maxMasters]master
	at      [maxProcesses]uint8

	// live has a bit for each process whose time is not over.
	live uint8

	// newest is the writer with the newest token, and claimed the one whose run is the
	// job's newest: 1 + its number, 0 for none.
	newest, claimed uint8

	// during has for each process with a lock or lease the others, as bits, whose present
	// questions were asked in part before it got its quorum.
	during [maxProcesses]uint8
}

func (m model) first() state { return state{} }

func (m model) quorum() int {
	if m.without == quorum {
		return 1
	}
	return m.masters/2 + 1
}

func (m model) isWriter(p int) bool { return p < m.writers }

func (s *state) isLive(p int) bool { return s.live>>p&1 == 1 }

// has reports whether a master has the process's key or lease.
func (m model) has(a master, p int) bool {
	if m.isWriter(p) {
		return a.owner == uint8(p+1)
	}
	return a.leases>>p&1 == 1
}

func (m model) name(p int) string {
	if m.isWriter(p) {
		return fmt.Sprintf("writer %d", p+1)
	}
	return fmt.Sprintf("reader %d", p-m.writers+1)
}

// broken returns the rule that a state breaks.
func (m model) broken(s state) string {
	if m.flushes {
		return ""
	}
	owners := 0
	readers := false
	for p := range m.writers + m.readers {
		switch in := s.isLive(p) && s.at[p] >= inside && s.at[p] <= moved; {
		case in && m.isWriter(p):
			owners++
		case in:
			readers = true
		}
	}
	switch {
	case owners > 1:
		return "two writers are inside"
	case owners > 0 && readers:
		return "a writer and a reader are inside"
	}
	return ""
}

// next appends all steps from a state.
func (m model) next(s state, steps []step) []step {
	add := func(change func(*state), wrong, action string, args ...any) {
		to := s
		change(&to)
		if m.masters > 1 {
			slices.SortFunc(to.masters[:m.masters], compare)
		}
		if m.named {
			action = fmt.Sprintf(action, args...)
		}
		steps = append(steps, step{to, action, wrong})
	}
	for p := range m.writers + m.readers {
		m.time(s, p, add)
		switch at := s.at[p]; {
		case at == dead:
		case at == idle:
			m.begin(s, p, add)
		case at == undoing || at == committed:
			m.giveBack(s, p, add)
		case at == asking || at == draining:
			m.ask(s, p, add)
			m.decide(s, p, add)
		case !m.isWriter(p):
			add(func(s *state) { s.at[p] = undoing }, "", "%s has read", m.name(p))
		default:
			m.write(s, p, add)
		}
	}
	if m.flushes {
		for i := range m.masters {
			add(func(s *state) { a := &s.masters[i]; a.owner, a.leases, a.marks = 0, 0, 0 }, "", "a master loses its data")
		}
	}
	return steps
}

type adder func(change func(*state), wrong, action string, args ...any)

// time adds what may happen to a process at any moment.
func (m model) time(s state, p int, add adder) {
	if s.isLive(p) {
		add(func(s *state) { s.live &^= 1 << p }, "", "the time of %s is over", m.name(p))
	}
	for end, text := range map[uint8]string{idle: "begins again", dead: "dies"} {
		if s.at[p] != idle && s.at[p] != dead {
			add(func(s *state) { m.reset(s, p); s.at[p] = end; s.live &^= 1 << p }, "", "%s "+text, m.name(p))
		}
	}
	on := 0
	for i := range m.masters {
		if m.has(s.masters[i], p) {
			on++
		}
	}
	for i := range m.masters {
		if !m.has(s.masters[i], p) || m.without == expiry || s.isLive(p) && (on <= m.quorum() || s.at[p] == asking || s.during[p] != 0) {
			continue
		}
		add(func(s *state) { m.remove(&s.masters[i], p) }, "", "what %s has at a master expires", m.name(p))
	}
	if m.without == marksExpire {
		return
	}
	for i := range m.masters {
		if s.masters[i].marks>>p&1 == 1 {
			add(func(s *state) { s.masters[i].marks &^= 1 << p }, "", "a mark of %s expires", m.name(p))
		}
	}
}

// reset forgets the answers to a process.
func (m model) reset(s *state, p int) {
	for i := range m.masters {
		s.masters[i].said[p] = unasked
	}
	for q := range s.during {
		s.during[q] &^= 1 << p
	}
}

func (m model) remove(a *master, p int) {
	if m.isWriter(p) {
		a.owner = 0
	} else {
		a.leases &^= 1 << p
	}
}

// begin adds the begin of an attempt.
func (m model) begin(s state, p int, add adder) {
	start := func(s *state) { s.at[p] = asking; s.live |= 1 << p }
	if !m.isWriter(p) {
		add(start, "", "%s wants a lease", m.name(p))
		return
	}
	jobLocked := false
	for other := range m.writers {
		jobLocked = jobLocked || s.at[other] == moved && m.without != generationLocked
	}
	if s.claimed != uint8(p+1) && !jobLocked {
		add(func(s *state) { s.claimed = uint8(p + 1) }, "", "%s claims the job", m.name(p))
	}
	free := 0
	for i := range m.masters {
		if s.masters[i].marks == 0 {
			free++
		}
	}
	if free >= m.masters/2+1 { // otherwise it gives way
		add(start, "", "%s wants the lock", m.name(p))
	}
}

// ask adds the answer of a master to a process that takes a lock or lease, or drains.
func (m model) ask(s state, p int, add adder) {
	for i := range m.masters {
		if s.masters[i].said[p] != unasked {
			continue
		}
		for _, answered := range []bool{true, false} {
			add(func(s *state) {
				answer := m.answer(s, p, &s.masters[i])
				if !answered {
					answer = lost
				}
				s.masters[i].said[p] = answer
			}, "", "a master hears %s, answered %v", m.name(p), answered)
		}
		add(func(s *state) { s.masters[i].said[p] = lost }, "", "a master does not hear %s", m.name(p))
	}
}

// answer does at a master what a process asks for, and returns the answer.
func (m model) answer(s *state, p int, a *master) uint8 {
	switch {
	case s.at[p] == draining && a.owner != uint8(p+1) && m.without != drainByOwner:
		return lost
	case s.at[p] == draining && a.leases != 0 && m.without != drain:
		return no
	case s.at[p] == draining:
		return yes
	case m.isWriter(p) && a.owner != 0:
		return no
	case m.isWriter(p):
		a.owner = uint8(p + 1)
	case a.owner != 0 && m.without != refuseReaders:
		a.marks |= 1 << p
		return no
	default:
		a.leases |= 1 << p
		a.marks &^= 1 << p
	}
	return yes
}

// decide adds what a process does when the masters have answered.
func (m model) decide(s state, p int, add adder) {
	answers := [4]int{}
	for i := range m.masters {
		answers[s.masters[i].said[p]]++
	}
	enter := func(to uint8) func(*state) {
		return func(s *state) { m.reset(s, p); s.at[p] = to }
	}
	failed := answers[no]+answers[lost] > m.masters-m.quorum()
	switch {
	case !s.isLive(p):
		add(enter(undoing), "", "%s sees that its time is over", m.name(p))
	case s.at[p] == asking && answers[yes] >= m.quorum():
		next := uint8(inside)
		if m.isWriter(p) {
			next = draining
		}
		add(func(s *state) {
			enter(next)(s)
			for q := range m.writers + m.readers {
				if m.masters > 1 && q != p && (s.at[q] == asking || s.at[q] == draining) {
					s.during[p] |= 1 << q
				}
			}
		}, "", "%s has a quorum", m.name(p))
	case s.at[p] == draining && answers[yes] >= m.quorum():
		add(enter(fencing), "", "%s has no readers", m.name(p))
	case s.at[p] == draining && failed:
		add(enter(draining), "", "%s drains again", m.name(p))
		add(enter(undoing), "", "%s gives up", m.name(p))
	case failed:
		add(enter(undoing), "", "%s gives up", m.name(p))
	}
}

// write adds the steps of a writer that has drained the room.
func (m model) write(s state, p int, add adder) {
	self := uint8(p + 1)
	leave := func(s *state) { s.at[p] = undoing }
	switch s.at[p] {
	case fencing:
		for other := range m.writers {
			if other != p && (s.at[other] == writing || s.at[other] == moved) && m.without != fenceIsShared {
				// The server ends the other's transaction, if it is idle.
				add(leave, "", "%s waits too long for a token", m.name(p))
				return
			}
		}
		add(func(s *state) {
			s.newest = self
			if s.at[p] = undoing; s.isLive(p) {
				s.at[p] = inside
			}
		}, "", "%s takes a token", m.name(p))
	case inside:
		if s.newest == self || m.without == fenceIsChecked {
			add(func(s *state) { s.at[p] = writing }, "", "%s begins a batch", m.name(p))
		} else {
			add(leave, "", "%s is fenced off", m.name(p))
		}
	case writing:
		add(leave, "", "the server ends the batch of %s", m.name(p))
		if s.claimed == self || m.without == generation {
			add(func(s *state) { s.at[p] = moved }, "", "%s moves the checkpoint", m.name(p))
		}
	case moved:
		add(leave, "", "the server ends the batch of %s", m.name(p))
		wrong := ""
		switch {
		case s.newest != self:
			wrong = "an owner commits without the newest token"
		case s.claimed != self:
			wrong = "a run commits that owns the job no more"
		}
		add(func(s *state) { s.at[p] = committed }, wrong, "%s commits", m.name(p))
	}
}

// giveBack adds the steps of a process that gives back what it has.
func (m model) giveBack(s state, p int, add adder) {
	all := true
	for i := range m.masters {
		if s.masters[i].said[p] != unasked {
			continue
		}
		all = false
		add(func(s *state) {
			a := &s.masters[i]
			a.said[p] = yes
			a.marks &^= 1 << p
			if m.has(*a, p) {
				m.remove(a, p)
			}
		}, "", "a master takes back what %s has", m.name(p))
		add(func(s *state) { s.masters[i].said[p] = lost }, "", "a master does not hear %s", m.name(p))
	}
	if all {
		add(func(s *state) { m.reset(s, p); s.at[p] = idle; s.live &^= 1 << p }, "", "%s is out", m.name(p))
	}
}

// compare orders masters.
func compare(a, b master) int {
	key := func(m master) uint64 {
		k := uint64(m.owner)<<16 | uint64(m.leases)<<8 | uint64(m.marks)
		for _, said := range m.said {
			k = k<<2 | uint64(said)
		}
		return k
	}
	return int(int64(key(a)) - int64(key(b)))
}
