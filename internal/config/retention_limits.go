package config

// RetentionLimits keep the purges of retention from drowning the database. They are
// the same for every worker.
type RetentionLimits struct {
	// MaxQueued (retention.max_queued) is how many purges of sweeps may be open at a
	// time, from 1 to 100000: a sweep waits until there are fewer. Defaults to 1000.
	MaxQueued int

	// MaxRunning (retention.max_running) is how many purges of sweeps may run at a
	// time in the whole fleet, from 1 to 1000, and no more than worker.concurrency
	// in one worker, beside its other jobs. Defaults to 2.
	MaxRunning int

	// RowsPerSecond (retention.rows_per_second) is how many rows the purges of
	// sweeps may delete in the whole fleet, from 0 to 10000000; 0 is no limit. An
	// event with all that belongs to it is one, and so is a state group. Defaults to
	// 0.
	RowsPerSecond int
}

func defaultRetentionLimits() RetentionLimits {
	return RetentionLimits{MaxQueued: 1000, MaxRunning: 2}
}

func retentionLimits(l *RetentionLimits) []setting {
	return []setting{
		{path: "retention.max_queued", set: number(&l.MaxQueued, 1, 100_000)},
		{path: "retention.max_running", set: number(&l.MaxRunning, 1, 1000)},
		{path: "retention.rows_per_second", set: number(&l.RowsPerSecond, 0, 10_000_000)},
	}
}
