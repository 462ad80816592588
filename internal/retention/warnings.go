package retention

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A Warning is about something valid in a Config that is probably a mistake.
type Warning struct {
	// Kind is the kind of the warning.
	Kind WarningKind

	// Jobs are the names of the jobs that the warning is about. A [Gap] and
	// warnings about the default policy have none.
	Jobs []string

	// Over and UpTo are the lifetimes that the warning is about, in ms: above the
	// first, up to and including the second. nil is no bound.
	Over, UpTo *int64
}

// A WarningKind is a kind of [Warning].
type WarningKind int

// The kinds of warnings.
const (
	// Gap means that no job covers the lifetimes, so rooms with them are never
	// purged.
	Gap WarningKind = iota
	// Overlap means that two jobs purge rooms with the lifetimes.
	Overlap
	// Idle means that no lifetime is within a job's bounds.
	Idle
	// DefaultNotCovered means that no job covers the default policy's lifetime,
	// UpTo.
	DefaultNotCovered
	// DefaultNotAllowed means that the default policy's lifetime, UpTo, is outside
	// the allowed lifetimes. Rooms are purged by the nearest allowed one.
	DefaultNotAllowed
)

// String returns the warning's text for the operator.
func (w Warning) String() string {
	switch w.Kind {
	case Gap:
		return "no purge job covers a max_lifetime " + w.lifetimes() + ": rooms with such a policy are never purged"
	case Overlap:
		return fmt.Sprintf("the purge jobs %q both purge rooms with a max_lifetime %s", w.Jobs, w.lifetimes())
	case Idle:
		return fmt.Sprintf("the purge job %q never purges a room: no max_lifetime is within its bounds", w.Jobs[0])
	case DefaultNotCovered:
		return fmt.Sprintf("no purge job covers the default policy's max_lifetime of %s: rooms without a policy are never purged", FormatDuration(*w.UpTo))
	case DefaultNotAllowed:
		return fmt.Sprintf("the default policy's max_lifetime of %s is outside the allowed lifetimes: rooms without a policy are purged by the nearest allowed one", FormatDuration(*w.UpTo))
	}
	panic(fmt.Sprintf("retention: unknown kind of warning %d", w.Kind))
}

func (w Warning) lifetimes() string {
	switch {
	case w.Over == nil && w.UpTo == nil:
		return "of any length"
	case w.Over == nil:
		return "up to " + FormatDuration(*w.UpTo)
	case w.UpTo == nil:
		return "over " + FormatDuration(*w.Over)
	}
	return "over " + FormatDuration(*w.Over) + " and up to " + FormatDuration(*w.UpTo)
}

// Warnings returns the warnings about a Config that [Config.Check] accepts. A Config
// that is not enabled has no warnings.
//
// Warnings compares each job with only one of the jobs that begin before it: the one
// that reaches furthest. So every overlap is reported, but not every pair of jobs.
func (c Config) Warnings() []Warning {
	if !c.Enabled {
		return nil
	}
	warnings := c.coverage()
	byDefault := c.DefaultPolicy.MaxLifetime
	if byDefault == nil {
		return warnings
	}
	if !slices.ContainsFunc(c.Jobs, func(job Job) bool { return job.Covers(nil, c.DefaultPolicy) }) {
		warnings = append(warnings, Warning{Kind: DefaultNotCovered, UpTo: byDefault})
	}
	if c.clamp(*byDefault) != *byDefault {
		warnings = append(warnings, Warning{Kind: DefaultNotAllowed, UpTo: byDefault})
	}
	return warnings
}

// coverage returns warnings about lifetimes that no job or more than one job covers,
// from the shortest to the longest.
func (c Config) coverage() []Warning {
	// A span is the lifetimes of a job: over low, up to high.
	type span struct {
		low, high int64
		name      string
	}
	const minLifetime, maxLifetime = -1, math.MaxInt64
	bound := func(ms int64) *int64 {
		if ms == minLifetime || ms == maxLifetime {
			return nil
		}
		return &ms
	}
	var warnings []Warning
	var spans []span
	for _, job := range c.Jobs {
		r := span{minLifetime, maxLifetime, job.Name}
		if job.ShortestMaxLifetime != nil {
			r.low = *job.ShortestMaxLifetime
		}
		if job.LongestMaxLifetime != nil {
			r.high = *job.LongestMaxLifetime
		}
		if r.low == r.high {
			warnings = append(warnings, Warning{Kind: Idle, Jobs: []string{job.Name}})
			continue
		}
		spans = append(spans, r)
	}
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.low, b.low) })
	furthest := span{minLifetime, minLifetime, ""}
	for _, r := range spans {
		switch {
		case r.low > furthest.high:
			warnings = append(warnings, Warning{Kind: Gap, Over: bound(furthest.high), UpTo: bound(r.low)})
		case r.low < furthest.high:
			warnings = append(warnings, Warning{
				Kind: Overlap, Jobs: []string{furthest.name, r.name},
				Over: bound(r.low), UpTo: bound(min(furthest.high, r.high)),
			})
		}
		if r.high > furthest.high {
			furthest = r
		}
	}
	if furthest.high < maxLifetime {
		warnings = append(warnings, Warning{Kind: Gap, Over: bound(furthest.high)})
	}
	return warnings
}
