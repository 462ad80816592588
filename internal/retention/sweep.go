package retention

import "time"

// Requester is the requester of sweeps, and of the jobs that they make.
const Requester = "retention"

// SweepParameters are the parameters of a sweep's job.
type SweepParameters struct {
	// Job is the name of the retention job that the sweep is a run of.
	Job string `json:"job"`

	// Tick is the time at which the sweep was due, in UTC. It is only recorded: a sweep
	// that runs late also takes what has expired since.
	Tick time.Time `json:"tick"`
}
