package brake

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/promquery"
	"lethe/internal/store/control"
	"lethe/internal/store/postgres"
	"lethe/internal/store/pressure"
	"lethe/internal/wait"
)

const (
	// lookInterval is how often a brake looks while jobs work, and restInterval while none
	// has for restAfter.
	lookInterval = 500 * time.Millisecond
	restInterval = 10 * time.Second
	restAfter    = time.Minute

	// lookTime bounds a look.
	lookTime = 5 * time.Second

	// staleAfter is the age from which a look says nothing, because the later ones failed.
	staleAfter = 15 * time.Second

	// commitMemory is how long the time of a commit counts.
	commitMemory = 10 * time.Second

	// queryRest is how long a query is not asked after it has failed: all other figures
	// would wait for a Prometheus that does not answer, at each look.
	queryRest = 10 * time.Second

	// softWait is the longest pause of a job after a soft limit.
	softWait = 5 * time.Second

	// hardWait is how long a job waits in its slot for the end of a hard limit, and
	// hardLook how often it looks. Then it yields, and comes back after about yieldTime.
	hardWait  = 5 * time.Second
	hardLook  = 100 * time.Millisecond
	yieldTime = 5 * time.Second
)

// Options are the options of a [Brake].
type Options struct {
	// BatchTime is how long a batch should take without the brake. Defaults to 250 ms.
	BatchTime time.Duration

	// Standbys are the application_names of the standbys that count. One of them that is not
	// connected is as far behind as it is away. Defaults to all that are connected.
	Standbys []string

	// Board shows what the brake does, for the worker called Worker. Defaults to nil: then only
	// the log and the metrics tell.
	Board  *Board
	Worker string

	// DiskPath is a folder in the file system of the database's data, if this machine has
	// it. Defaults to "": free space is unknown.
	DiskPath string

	// Query asks Prometheus for a number. Defaults to nil: the figure is unknown.
	Query *promquery.Query

	// Log gets a line when a brake begins and ends. Defaults to none.
	Log *slog.Logger

	// Metrics count the time of pauses. Defaults to none of their own.
	Metrics *observe.Metrics
}

// A Reading is a signal as it was last seen.
type Reading struct {
	Signal Signal

	// Value is nil if it is unknown.
	Value *float64

	// Says is what the value says in words, "" if it is unknown.
	Says string

	// Limits are those that hold now, from [Brake.Watch].
	Limits Limits
}

// A State is what a brake does.
type State struct {
	// Share is for which share of their time jobs work, from 0 to 1.
	Share float64

	// Reason is the reading that decides, in words, "" if Share is 1.
	Reason string

	// Readings are those of all signals, in the order of [Signals].
	Readings []Reading

	// At is when the server was looked at, zero for never.
	At time.Time
}

// A Brake decides how fast the jobs of a process go. It is safe for concurrent use. A nil
// Brake brakes nothing.
type Brake struct {
	options  Options
	pressure *pressure.Reader
	control  *control.Control
	lags     *lagMeter // of Watch alone
	askAt    time.Time // when the query is asked next, of Watch alone

	mu      sync.Mutex
	state   State
	asked   time.Time
	commits []commit
	batch   time.Duration // that was done last
}

type commit struct {
	at   time.Time
	took time.Duration
}

// New returns a Brake, which brakes nothing until [Brake.Watch].
func New(db *postgres.DB, options Options) *Brake {
	if options.BatchTime == 0 {
		options.BatchTime = 250 * time.Millisecond
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Metrics == nil {
		options.Metrics = observe.NewMetrics(nil)
	}
	return &Brake{
		options: options, pressure: pressure.New(db), control: control.New(db), lags: newLagMeter(), state: State{Share: 1},
	}
}

// Watch looks at the server until the context ends: twice a second while jobs ask, and every
// 10 s while none does. Call it once.
func (b *Brake) Watch(ctx context.Context) {
	if b == nil {
		return
	}
	var next time.Time
	failing := false
	wait.Every(ctx, lookInterval, func(ctx context.Context) {
		now := time.Now()
		b.mu.Lock()
		rests := now.Sub(b.asked) > restAfter
		b.mu.Unlock()
		if rests && now.Before(next) {
			return
		}
		next = now.Add(restInterval)
		err := b.look(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			b.options.Log.WarnContext(ctx, "brake: the server was not looked at: jobs go on", "error", err)
		}
		failing = err != nil
	})
}

// look looks at the server once.
func (b *Brake) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	set, err := b.control.BrakeLimits(ctx)
	if err != nil {
		return err
	}
	seen, err := b.pressure.Look(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	figures := b.figures(ctx, now, seen)
	state := State{Share: 1, At: now}
	for _, k := range kinds {
		reading := Reading{Signal: k.signal, Limits: k.limits}
		if k.signal == SlotBytes && seen.SlotBytes != nil {
			reading.Limits = k.limits.within(float64(seen.SlotKeep))
		}
		if own, ok := set[string(k.signal)]; ok {
			reading.Limits = Limits{Soft: own.Soft, Hard: own.Hard}
		}
		if figure, ok := figures[k.signal]; ok {
			reading.Value, reading.Says = &figure.value, k.says(figure.value, figure.about)
			if share := k.share(figure.value, reading.Limits); share < state.Share {
				state.Share, state.Reason = share, reading.Says
			}
		}
		state.Readings = append(state.Readings, reading)
	}
	b.mu.Lock()
	before := b.state
	b.state = state
	b.mu.Unlock()
	b.options.Metrics.BrakeShare.Set(state.Share)
	if b.options.Board != nil {
		if err := b.options.Board.Post(ctx, b.options.Worker, state); err != nil {
			b.options.Log.DebugContext(ctx, "brake: not shown", "error", err)
		}
	}
	switch {
	case state.Share == 0 && before.Share != 0:
		b.options.Log.WarnContext(ctx, "brake: jobs wait", "reason", state.Reason)
	case state.Share != 0 && before.Share == 0:
		b.options.Log.InfoContext(ctx, "brake: jobs go on", "reason", before.Reason)
	}
	return nil
}

// A figure is the value of a signal, and what it is about.
type figure struct {
	value float64
	about string
}

// figures returns what is known.
func (b *Brake) figures(ctx context.Context, now time.Time, seen pressure.Look) map[Signal]figure {
	figures := map[Signal]figure{}
	for _, lag := range b.lags.look(now, seen, b.options.Standbys) {
		if worst, ok := figures[StandbySeconds]; !ok || lag.seconds > worst.value {
			figures[StandbySeconds] = figure{lag.seconds, lag.name}
		}
		if worst, ok := figures[StandbyBytes]; !ok || float64(lag.bytes) > worst.value {
			figures[StandbyBytes] = figure{float64(lag.bytes), lag.name}
		}
	}
	for signal, number := range map[Signal]*int64{
		SlotBytes: seen.SlotBytes, ArchiveSegments: seen.ArchiveSegments, Autovacuums: seen.Autovacuums,
		XminAge: seen.XminAge, LockWaits: seen.LockWaits,
	} {
		if number != nil {
			figures[signal] = figure{value: float64(*number), about: map[Signal]string{
				SlotBytes: seen.SlotName, Autovacuums: vacuumed(seen.Vacuumed),
			}[signal]}
		}
	}
	if b.options.DiskPath != "" {
		if free, err := freeSpace(b.options.DiskPath); err == nil {
			figures[DiskBytes] = figure{float64(free), b.options.DiskPath}
		}
	}
	if b.options.Query != nil && !now.Before(b.askAt) {
		if value, err := b.options.Query.Value(ctx); err == nil {
			figures[Query] = figure{value: value}
		} else {
			b.askAt = now.Add(queryRest)
		}
	}
	figures[CommitSeconds] = figure{value: b.slowestCommit(now).Seconds()}
	return figures
}

// State returns what the brake does now.
func (b *Brake) State() State {
	if b == nil {
		return State{Share: 1}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.state.At) > staleAfter {
		return State{Share: 1, Readings: b.state.Readings, At: b.state.At}
	}
	return b.state
}

// BatchTime returns how long a batch should take now.
func (b *Brake) BatchTime(normal time.Duration) time.Duration {
	share := b.State().Share
	if share == 0 {
		share = minShare // a batch that is at work ends all the same
	}
	return time.Duration(float64(normal) * share)
}

// Committed notes how long a commit took. It counts for 10 s.
func (b *Brake) Committed(took time.Duration) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	// One of each second is enough.
	if n := len(b.commits); n > 0 && now.Sub(b.commits[n-1].at) < time.Second {
		b.commits[n-1].took = max(b.commits[n-1].took, took)
		return
	}
	b.commits = append(b.commits, commit{now, took})
	if len(b.commits) > int(commitMemory/time.Second)+1 {
		b.commits = b.commits[1:]
	}
}

// Worked notes how long a batch took, from which the next pause is computed: on a slow
// server even the smallest batch takes longer than it should.
func (b *Brake) Worked(took time.Duration) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batch = took
}

// rest returns the pause with which a batch like the last one makes up a share of the time.
func (b *Brake) rest(share float64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	// A batch that took as long as it should took the share of BatchTime.
	normal := float64(b.options.BatchTime) * (1 - share)
	return time.Duration(min(max(normal, float64(b.batch)*(1-share)/share), float64(softWait)))
}

func (b *Brake) slowestCommit(now time.Time) (slowest time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.commits {
		if now.Sub(c.at) <= commitMemory {
			slowest = max(slowest, c.took)
		}
	}
	return slowest
}

// Pause pauses a job between two batches, in which it holds no lock: after a soft limit for
// the rest of the time of which the share is what the last batch took, at most 5 s, and at a
// hard one until it ends. After 5 s at a hard limit it returns a [jobs.YieldError] that says which limit it
// is. A job that has not begun, worked is false, does not wait in its slot at all.
func (b *Brake) Pause(ctx context.Context, worked bool) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	b.asked = time.Now()
	b.mu.Unlock()
	state := b.State()
	if state.Share == 1 || state.Share > 0 && !worked {
		return nil
	}
	started := time.Now()
	defer func() { b.options.Metrics.BrakePauseSeconds.Add(time.Since(started).Seconds()) }()
	if state.Share > 0 {
		_ = wait.For(ctx, b.rest(state.Share)) // the caller sees why it ended early
		return nil
	}
	for worked && ctx.Err() == nil && time.Since(started) < hardWait {
		_ = wait.For(ctx, hardLook) // the loop sees why it ended early
		if state = b.State(); state.Share > 0 {
			return nil
		}
	}
	return jobs.YieldError{Reason: jobs.YieldBrake, After: wait.Jitter(yieldTime), WaitsFor: "brake: " + state.Reason}
}
