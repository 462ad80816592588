package retention

import (
	"errors"
	"time"
)

// AbandonedJob is the name of the job that deletes abandoned rooms. No other job
// may have it.
const AbandonedJob = "abandoned-rooms"

// Abandoned says which rooms are deleted since no user of this server is in them.
type Abandoned struct {
	// Enabled says that there are any, whether or not retention is enabled.
	// Defaults to false.
	Enabled bool

	// After is for how long nobody must have been in a room, in ms. It has no
	// default.
	After int64

	// CoolOff is how far two looks that find a room abandoned must be apart before
	// it is deleted, in ms. It has no default.
	CoolOff int64

	// Interval and Cron say when the job is due; only one of them may. Defaults to
	// none, once a day.
	Interval, Cron Schedule

	// MaxPerRun is how many rooms one run of the job deletes at most. It has no
	// default.
	MaxPerRun int

	// Exclude are rooms that stay: their ids, their aliases, and the names of
	// servers, whose rooms they are. Defaults to none.
	Exclude []string
}

// Job is the job that looks for abandoned rooms. No room's policy is covered by it.
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

// GoneBefore is the moment before which the last user must have gone, at now, in
// Unix ms.
func (a Abandoned) GoneBefore(now time.Time) int64 { return ago(now, a.After) }

// Cooled reports whether a room that was found abandoned at seen, zero if it was
// not, and is at now, may be deleted.
func (a Abandoned) Cooled(seen, now time.Time) bool {
	return !seen.IsZero() && ago(now, a.CoolOff) >= seen.UnixMilli()
}

var errTwoSchedules = errors.New("abandoned has an interval and a cron: only one of them can say when it is due")
