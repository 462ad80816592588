package retention

import (
	"errors"
	"time"
)

// AbandonedJob is the name of the job that deletes abandoned rooms. It is reserved.
const AbandonedJob = "abandoned-rooms"

// Abandoned says which rooms are deleted because no user of this server is in them.
type Abandoned struct {
	// Enabled turns the job on, also if retention is not enabled. Defaults to
	// false.
	Enabled bool

	// After is how long a room must have had no user of this server, in ms. It has
	// no default.
	After int64

	// CoolOff is the minimum time between the two runs that find a room abandoned
	// before it is deleted, in ms. It has no default.
	CoolOff int64

	// Interval and Cron say when the job is due. Only one of them may be set.
	// Defaults to once a day.
	Interval, Cron Schedule

	// MaxPerRun is the maximum number of rooms that one run deletes. It has no
	// default.
	MaxPerRun int

	// Exclude lists rooms that are never deleted: ids and aliases of rooms, and
	// names of servers, which exclude all of their rooms. Defaults to none.
	Exclude []string
}

// Job returns the job that deletes abandoned rooms.
func (a Abandoned) Job() Job {
	job := Job{Name: AbandonedJob, Schedule: Everything().Schedule}
	switch {
	case !a.Cron.IsZero():
		job.Schedule = a.Cron
	case !a.Interval.IsZero():
		job.Schedule = a.Interval
	}
	return job
}

// GoneBefore returns the time, in Unix ms, before which the last user of a room must
// have left, so that the room is abandoned at now.
func (a Abandoned) GoneBefore(now time.Time) int64 { return ago(now, a.After) }

// Cooled reports whether a room that is abandoned at now may be deleted. Seen is when
// a run first found it abandoned, or zero.
func (a Abandoned) Cooled(seen, now time.Time) bool {
	return !seen.IsZero() && ago(now, a.CoolOff) >= seen.UnixMilli()
}

var errTwoSchedules = errors.New("abandoned has an interval and a cron: set only one of them")
