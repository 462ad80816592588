package retention

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// MaxJobs is how many jobs there may be at most.
const MaxJobs = 100

// A Job purges the rooms whose max_lifetime is within its bounds, at each of its
// ticks.
type Job struct {
	// Name is the job's own among all. It stays the same when other jobs come, go
	// or change places, as the rows do that were written by it. Defaults to
	// [Job.DefaultName].
	Name string

	// Schedule says when it is due. It has no default.
	Schedule Schedule

	// ShortestMaxLifetime and LongestMaxLifetime are its bounds, in ms: a lifetime
	// equal to the first is out, one equal to the second is in. Defaults to nil,
	// no bound.
	ShortestMaxLifetime, LongestMaxLifetime *int64
}

// Everything is the job that there is if none is given: all rooms, once a day.
func Everything() Job {
	job := Job{Schedule: Schedule{interval: 24 * 3600 * 1000}}
	job.Name = job.DefaultName()
	return job
}

// DefaultName names the job by its bounds and its schedule, such as
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

// Covers reports whether the job purges a room with the given policy, nil if it
// has none, where the default policy fills what a policy leaves open. A room that
// nothing limits is covered by no job. The bounds are compared with the policy as
// it is, whatever lifetimes are allowed.
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

// jobName is what an operator may call a job.
var jobName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckJobName tells why a name that an operator gives cannot be a job's, if so.
// The error does not repeat it.
func CheckJobName(name string) error {
	if !jobName.MatchString(name) {
		return errors.New("must be 1 to 64 letters, digits, dots, hyphens or underscores, the first a letter or digit")
	}
	if name == AbandonedJob {
		return errors.New("must not be that of the job of retention.abandoned")
	}
	return nil
}

// What a Config may not say, in the words that operators know.
var (
	errDefaultPolicy = errors.New("The default retention policy's 'min_lifetime' can not be greater than its 'max_lifetime'")
	errAllowed       = errors.New("Invalid retention policy limits: 'allowed_lifetime_min' can not be greater than 'allowed_lifetime_max'")
	errNoInterval    = errors.New("A retention policy's purge jobs configuration must have the 'interval' key set.")
	errBounds        = errors.New("A retention policy's purge jobs configuration's 'shortest_max_lifetime' value can not be greater than its 'longest_max_lifetime' value.")
)

// Check tells what of the default policy, the allowed lifetimes and abandoned rooms
// contradicts itself, each as an error of its own.
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

// CheckJobs tells what is wrong with a list of jobs, each as an error of its own.
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
			errs = append(errs, JobError{i, fmt.Errorf("is the same job as number %d, or has its name: each needs a name of its own", first+1)})
			continue
		}
		names[job.Name] = i
	}
	return errs
}

// A JobError is what is wrong with one job of a list.
type JobError struct {
	Index int // of the job, from 0
	Err   error
}

// above reports whether both are there and the first is greater.
func above(low, high *int64) bool { return low != nil && high != nil && *low > *high }
