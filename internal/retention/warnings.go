package retention

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A Warning is something that a Config may say, but hardly means.
type Warning struct {
	// About is what it is.
	About Doubt

	// Jobs are the names of the jobs that it is about, none for a [Gap] and for
	// what is about the default policy.
	Jobs []string

	// Over and UpTo are the lifetimes that it is about, in ms: those above the
	// first, and not above the second. nil is no bound.
	Over, UpTo *int64
}

// A Doubt is what is doubtful about a Config.
type Doubt int

// What may be doubtful about a Config.
const (
	// Gap: rooms whose policy has one of the lifetimes are never purged, since no
	// job covers it.
	Gap Doubt = iota
	// Overlap: two jobs purge the rooms whose policy has one of the lifetimes.
	Overlap
	// Idle: no lifetime is within a job's bounds.
	Idle
	// DefaultNotCovered: no job covers the lifetime of the default policy, UpTo.
	DefaultNotCovered
	// DefaultNotAllowed: the lifetime of the default policy, UpTo, is outside
	// those that are allowed. Rooms are purged by the nearest of these.
	DefaultNotAllowed
)

// String says it to the operator.
func (w Warning) String() string {
	switch w.About {
	case Gap:
		return "no purge job covers a max_lifetime " + w.lifetimes() + ": rooms with such a policy are never purged"
	case Overlap:
		return fmt.Sprintf("the purge jobs %q both purge rooms with a max_lifetime %s", w.Jobs, w.lifetimes())
	case Idle:
		return fmt.Sprintf("the purge job %q never purges a room: no max_lifetime is over the lower of its bounds and within the upper", w.Jobs[0])
	case DefaultNotCovered:
		return fmt.Sprintf("no purge job covers the default policy's max_lifetime of %s: rooms without a policy are never purged", FormatDuration(*w.UpTo))
	case DefaultNotAllowed:
		return fmt.Sprintf("the default policy's max_lifetime of %s is outside the allowed lifetimes: rooms without a policy are purged by the nearest of these", FormatDuration(*w.UpTo))
	}
	panic(fmt.Sprintf("retention: no words for doubt %d", w.About))
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

// Warnings tells what is doubtful about a Config that [Config.Check] finds
// nothing wrong with. One that is not enabled has no effect, and gets none.
//
// An overlap is told of each job with the one that reaches furthest of those
// that begin before it. So no overlap goes unnoticed, but not every pair of jobs
// is named.
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
		warnings = append(warnings, Warning{About: DefaultNotCovered, UpTo: byDefault})
	}
	if c.clamp(*byDefault) != *byDefault {
		warnings = append(warnings, Warning{About: DefaultNotAllowed, UpTo: byDefault})
	}
	return warnings
}

// coverage tells of the lifetimes that no job covers, and of those that more
// than one does, from the shortest to the longest.
func (c Config) coverage() []Warning {
	// A reach is the lifetimes of a job: over low, up to high.
	type reach struct {
		low, high int64
		name      string
	}
	const least, most = -1, math.MaxInt64
	bound := func(ms int64) *int64 {
		if ms == least || ms == most {
			return nil
		}
		return &ms
	}
	var warnings []Warning
	var reaches []reach
	for _, job := range c.Jobs {
		r := reach{least, most, job.Name}
		if job.ShortestMaxLifetime != nil {
			r.low = *job.ShortestMaxLifetime
		}
		if job.LongestMaxLifetime != nil {
			r.high = *job.LongestMaxLifetime
		}
		if r.low == r.high {
			warnings = append(warnings, Warning{About: Idle, Jobs: []string{job.Name}})
			continue
		}
		reaches = append(reaches, r)
	}
	slices.SortStableFunc(reaches, func(a, b reach) int { return cmp.Compare(a.low, b.low) })
	furthest := reach{least, least, ""}
	for _, r := range reaches {
		switch {
		case r.low > furthest.high:
			warnings = append(warnings, Warning{About: Gap, Over: bound(furthest.high), UpTo: bound(r.low)})
		case r.low < furthest.high:
			warnings = append(warnings, Warning{
				About: Overlap, Jobs: []string{furthest.name, r.name},
				Over: bound(r.low), UpTo: bound(min(furthest.high, r.high)),
			})
		}
		if r.high > furthest.high {
			furthest = r
		}
	}
	if furthest.high < most {
		warnings = append(warnings, Warning{About: Gap, Over: bound(furthest.high)})
	}
	return warnings
}
