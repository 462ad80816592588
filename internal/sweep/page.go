package sweep

import (
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
)

// A verdict is a sweep's decision about a room.
type verdict struct {
	room string

	// skip counts the room. It is called unless the room has failed or gets a job.
	skip func(*Result)
	job  *journal.Job
	err  error

	// abandoned says that a sweep for abandoned rooms has found the room abandoned.
	abandoned bool
}

// verdicts are those of a page of rooms, in the order of their ids.
type verdicts []verdict

// upTo returns the beginning of the page that has at most maxJobs jobs. maxJobs is
// at least 1.
func (p verdicts) upTo(maxJobs int) verdicts {
	for i, v := range p {
		if v.job == nil {
			continue
		}
		if maxJobs == 0 {
			return p[:i]
		}
		maxJobs--
	}
	return p
}

func (p verdicts) jobs() []journal.Job {
	var all []journal.Job
	for _, v := range p {
		if v.job != nil {
			all = append(all, *v.job)
		}
	}
	return all
}

// count adds the rooms of the page to the result. swept says what has become of
// their jobs.
func (p verdicts) count(result *Result, swept journal.SweptJobs) {
	accepted := make(map[string]bool, len(swept.Accepted))
	for _, id := range swept.Accepted {
		accepted[id] = true
	}
	for _, v := range p {
		result.Rooms++
		switch {
		case v.err != nil:
			result.fail(v.room, v.err)
		case v.job == nil:
			v.skip(result)
		case accepted[v.job.ID]:
			result.Enqueued++
		case swept.Refused[v.job.ID] != nil:
			result.fail(v.room, swept.Refused[v.job.ID])
		case v.job.Kind == jobs.DeleteRoom: // the room has got another delete meanwhile
			result.Skipped.Deleting++
		default: // another sweep has made a purge meanwhile
			result.Skipped.Purging++
		}
	}
}
