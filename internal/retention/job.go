package retention

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// MaxJobs is the maximum number of jobs.
const MaxJobs = 100

// A Job purges the rooms whose max_lifetime is within its bounds, at each of its
// ticks.
type Job struct {
	// Name identifies the job, also in the rows that it has written. It does not
	// depend on the other jobs or on their order. Defaults to [Job.DefaultName].
	Name string

	// Schedule says when the job is due. It has no default.
	Schedule Schedule

	// ShortestMaxLifetime and LongestMaxLifetime are the job's bounds, in ms. The
	// job covers lifetimes above the first, up to and including the second.
	// Defaults to nil: no bound.
	ShortestMaxLifetime, LongestMaxLifetime *int64
}

// Everything returns the default job, which covers all rooms once a day.
func Everything() Job {
	job := Job{Schedule: Schedule{interval: 24 * 3600 * 1000}}
	job.Name = job.DefaultName()
	return job
}

// DefaultName returns a name made of the job's bounds and its schedule, such as
// over-1d-up-to-1w-every-12h.
func (j Job) DefaultName() string {
	var words []string
	if j.ShortestMaxLifetime != nil {
		words = append(words, "over", FormatDuration(*j.ShortestMaxLifetime))
	}
	if j.LongestMaxLifetime != nil {
		words = append(words, "up-to", FormatDuration(*j.LongestMaxLifetime))
	}
	if len(words) == 0 {
		words = append(words, "all")
	}
	words = append(words, "every", j.Schedule.String())
	if j.Schedule.spec != nil {
		words[len(words)-2] = "at"
	}
	return strings.ReplaceAll(strings.Join(words, "-"), " ", "_")
}

// Covers reports whether the job purges a room with the given policy, which is nil if
// the room has none. The default policy applies where the room's policy sets nothing.
// No job covers a room without a limit. The bounds are compared with the policy's own
// lifetime, without regard to the allowed lifetimes.
func (j Job) Covers(room *Policy, byDefault Policy) bool {
	lifetime, limited := Config{DefaultPolicy: byDefault}.maxLifetime(room)
	return limited &&
		(j.ShortestMaxLifetime == nil || lifetime > *j.ShortestMaxLifetime) &&
		(j.LongestMaxLifetime == nil || lifetime <= *j.LongestMaxLifetime)
}

// Previous returns the job's latest tick that is not after now, as
// [Schedule.Previous] does.
func (j Job) Previous(now time.Time) time.Time { return j.Schedule.Previous(now) }

// Next returns the job's earliest tick after a time, as [Schedule.Next] does.
func (j Job) Next(after time.Time) time.Time { return j.Schedule.Next(after) }

// jobName matches a valid name for a job.
var jobName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckJobName returns an error if a name in the settings is not valid for a job. The
// error does not contain the name.
func CheckJobName(name string) error {
	if !jobName.MatchString(name) {
		return errors.New("must be 1 to 64 letters, digits, dots, hyphens or underscores, the first a letter or digit")
	}
	if name == AbandonedJob {
		return errors.New("must not be the name of the job of retention.abandoned")
	}
	return nil
}

// The errors of a Config use Synapse's texts, which operators know.
var (
	errDefaultPolicy = errors.New("The default retention policy's 'min_lifetime' can not be greater than its 'max_lifetime'")
	errAllowed       = errors.New("Invalid retention policy limits: 'allowed_lifetime_min' can not be greater than 'allowed_lifetime_max'")
	errNoInterval    = errors.New("A retention policy's purge jobs configuration must have the 'interval' key set.")
	errBounds        = errors.New("A retention policy's purge jobs configuration's 'shortest_max_lifetime' value can not be greater than its 'longest_max_lifetime' value.")
)

// Check returns an error for each contradiction in the default policy, the allowed
// lifetimes and the settings for abandoned rooms.
func (c Config) Check() []error {
	var errs []error
	if above(c.DefaultPolicy.MinLifetime, c.DefaultPolicy.MaxLifetime) {
		errs = append(errs, errDefaultPolicy)
	}
	if above(c.AllowedLifetimeMin, c.AllowedLifetimeMax) {
		errs = append(errs, errAllowed)
	}
	if !c.Abandoned.Interval.IsZero() && !c.Abandoned.Cron.IsZero() {
		errs = append(errs, errTwoSchedules)
	}
	return errs
}

// CheckJobs returns an error for each fault in a list of jobs.
func CheckJobs(jobs []Job) []JobError {
	var errs []JobError
	names := map[string]int{}
	for i, job := range jobs {
		if job.Schedule.IsZero() {
			errs = append(errs, JobError{i, errNoInterval})
		}
		if above(job.ShortestMaxLifetime, job.LongestMaxLifetime) {
			errs = append(errs, JobError{i, errBounds})
		}
		if first, taken := names[job.Name]; taken {
			errs = append(errs, JobError{i, fmt.Errorf("has the same name as number %d: every job needs its own name", first+1)})
			continue
		}
		names[job.Name] = i
	}
	return errs
}

// A JobError is an error in one job of a list.
type JobError struct {
	Index int // of the job, from 0
	Err   error
}

// above reports whether both are set and the first is greater.
func above(low, high *int64) bool { return low != nil && high != nil && *low > *high }
