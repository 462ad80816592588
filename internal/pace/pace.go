package pace

import (
	"sync"
	"time"

	"lethe/internal/expiring"
)

// A Work is what a batch works through.
type Work int

const (
	// Events are the events of a purge.
	Events Work = iota
	// StateGroups are the state groups of a purge.
	StateGroups
	// Rows are the rows of a room's delete, counted in events.
	Rows
	// Users are the users whom a shutdown removes.
	Users
)

// bounds are the sizes of batches of one kind of work.
type bounds struct {
	// first is the size of a job's first batch as long as nothing is known of others.
	first int

	// least is the smallest size, however slow the last batch was: up to here the time of
	// a batch does not depend on its size.
	least int

	// most is the largest size, if that of the [Options] is not less. 0 is no bound.
	most int
}

var boundsOf = map[Work]bounds{
	Events:      {first: 200, least: 50},
	StateGroups: {first: 200, least: 1},
	Rows:        {first: 1000, least: 50},
	// All users of a batch wait for the slowest.
	Users: {first: 10, least: 1, most: 200},
}

const (
	// trust is the share of a learned rate by which a first batch is sized. Another room's
	// events may have twice as many rows.
	trust = 0.5

	// halfLife is the time in which a learned rate loses half of its trust: the server may
	// have become slow since.
	halfLife = time.Minute

	// relief is the part by which a faster batch raises a learned rate. A slower one
	// lowers it at once.
	relief = 0.25

	// growth bounds how much larger than the last a batch is. A batch that was full has
	// shown what its size takes. Another may have found little to do.
	growth     = 2
	fullGrowth = 8

	// shrink bounds how much smaller it is.
	shrink = 0.25

	// crowded is the part of a batch that is done at a time while readers wait, and calm
	// is how long after the last of them. Readers wait for about one batch.
	crowded = 0.25
	calm    = 5 * time.Second

	// maxRooms bounds the rooms with waiting readers that are known at a time.
	maxRooms = 10_000
)

// Options are the options of a [Pace].
type Options struct {
	// Time returns the time that a batch aims at now. It has no default.
	Time func() time.Duration

	// Most is the largest size of a batch. It has no default.
	Most int
}

// A Pace sizes the batches of a process. It is safe for concurrent use.
type Pace struct {
	options Options

	// crowds has the rooms for which readers have waited.
	crowds *expiring.Map[string, struct{}]

	mu    sync.Mutex
	rates map[Work]rate
}

// A rate is how fast batches were.
type rate struct {
	perSecond float64
	at        time.Time
}

// New returns a Pace that has learned nothing.
func New(options Options) *Pace {
	return &Pace{options: options, crowds: expiring.New[string, struct{}](maxRooms), rates: map[Work]rate{}}
}

// First returns the size of a job's first batch of the work. It is larger the faster the
// last batches of other jobs were, for as long as that is recent, but never as large as
// what these did in [Options.Time].
func (p *Pace) First(work Work) int { return p.first(work, time.Now()) }

func (p *Pace) first(work Work, now time.Time) int {
	p.mu.Lock()
	learned := p.rates[work]
	p.mu.Unlock()
	b := boundsOf[work]
	size := learned.perSecond * p.options.Time().Seconds() * trust
	for age := now.Sub(learned.at); age >= halfLife && int(size) > b.first; age -= halfLife {
		size /= 2
	}
	return p.bounded(work, max(int(size), b.first))
}

// Crowd notes that readers have waited for the room. Batches there are smaller until no
// reader has waited for 5 s.
func (p *Pace) Crowd(room string) { p.crowds.Put(room, struct{}{}, calm) }

// Size returns the size of the next batch in the room: the planned one, or less while
// readers wait there.
func (p *Pace) Size(work Work, room string, planned int) int {
	if _, ok := p.crowds.Get(room); !ok {
		return planned
	}
	return min(planned, max(int(float64(planned)*crowded), boundsOf[work].least))
}

// A Batch is a batch that was done.
type Batch struct {
	Work Work

	// Planned is the size that was planned for it. Size is what it was given, which is
	// less if there was a reason, and Done what it has done.
	Planned, Size int
	Done          int64

	// Took is how long it took.
	Took time.Duration
}

// Next plans the batch after this one.
func (p *Pace) Next(b Batch) int { return p.next(b, time.Now()) }

func (p *Pace) next(b Batch, now time.Time) int {
	aim, took := p.options.Time(), max(b.Took.Seconds(), 1e-6)
	grow := float64(growth)
	if 4*b.Done >= 3*int64(b.Size) {
		grow = fullGrowth
		p.learn(b, float64(b.Done)/took, now)
	}
	size := float64(b.Size) * aim.Seconds() / took
	if b.Size < b.Planned && b.Took <= aim {
		// Most of its time may be what every batch takes. If that made the plan smaller,
		// batches beside readers would become smaller and smaller, and take hardly less
		// time.
		size = max(size, float64(b.Planned))
	}
	return p.bounded(b.Work, int(min(max(size, float64(b.Planned)*shrink), float64(b.Planned)*grow)))
}

// learn notes how fast a full batch was. The time of a small one says little.
func (p *Pace) learn(b Batch, perSecond float64, now time.Time) {
	if b.Done < int64(boundsOf[b.Work].first) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.rates[b.Work]; ok && perSecond > old.perSecond && now.Sub(old.at) < halfLife {
		perSecond = old.perSecond + relief*(perSecond-old.perSecond)
	}
	p.rates[b.Work] = rate{perSecond, now}
}

// bounded returns the size within the bounds of the work.
func (p *Pace) bounded(work Work, size int) int {
	b := boundsOf[work]
	size = min(max(size, b.least), p.options.Most)
	if b.most > 0 {
		size = min(size, b.most)
	}
	return size
}
