package mutants

// jobsAndBatches breaks how jobs go on from batch to batch.
var jobsAndBatches = []mutant{
	{
		name:  `the size of a batch ignores its time`,
		file:  `internal/pace/pace.go`,
		old:   `size := float64(b.Size) * aim.Seconds() / took`,
		text:  `size := float64(b.Size) * 2`,
		tests: `TestSize`,
	},
	{
		name:  `a batch outgrows its bound`,
		file:  `internal/pace/pace.go`,
		old:   `size = min(max(size, b.least), p.options.Most)`,
		text:  `size = max(size, b.least)`,
		tests: `TestSize`,
	},
	{
		name: `a purge does not look for what arrived late`,
		file: `internal/tasks/purge_history.go`,
		old: `	if p.at.Late {
		p.at.Phase`,
		text: `	if p.at.Late || true {
		p.at.Phase`,
		tests: `TestWorkerPurges`,
	},
	{
		name: `a work goes on after a failed batch`,
		file: `internal/tasks/worker.go`,
		old: `		work, claimed = nil, false
`,
		text: `		claimed = false
`,
		tests: `TestWorker`,
	},
	{
		name:  `a yielding job counts as lost`,
		file:  `internal/store/journal/jobs.go`,
		old:   "SELECT id, generation, attempt FROM runs EXCEPT SELECT id, generation, attempt FROM beaten`",
		text:  "SELECT id, generation, attempt FROM runs`",
		tests: `TestHeartbeat`,
	},
	{
		name:  `cuts of retention may sort`,
		file:  `internal/store/expiry/retention.go`,
		old:   `set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true)`,
		text:  `set_config('enable_sort', 'on', true), set_config('enable_incremental_sort', 'on', true)`,
		tests: `Test`,
	},
	{
		name:  `a catalog is believed for ever`,
		file:  `internal/store/purge/purger.go`,
		old:   `if c.version == version && time.Since(c.readAt) < catalogAge {`,
		text:  `if c.version != "" {`,
		tests: `TestChanges TestCatalogVersion`,
	},
	{
		name:  `a change of the catalog is believed late`,
		file:  `internal/store/purge/purger.go`,
		old:   `cmp.Or(options.VersionAge, time.Second)`,
		text:  `cmp.Or(options.VersionAge, time.Hour)`,
		tests: `TestChanges TestCatalogVersion`,
	},
	{
		name:  `rights are believed for ever`,
		file:  `internal/store/purge/purger.go`,
		old:   `const catalogAge = 10 * time.Second`,
		text:  `const catalogAge = 10 * time.Hour`,
		tests: `TestCatalog TestChanges`,
	},
	{
		name:  `a wait forgets since when it lasts`,
		file:  `internal/store/journal/jobs.go`,
		old:   `starts_with($4, $6) THEN waits_since`,
		text:  `starts_with($4, $6) THEN clock_timestamp()`,
		tests: `TestYieldKeeps`,
	},
	{
		name:  `a full disk is a failure of the job`,
		file:  `internal/tasks/worker.go`,
		old:   `case postgres.IsLocked(err), postgres.IsFull(err):`,
		text:  `case postgres.IsLocked(err):`,
		tests: `TestPurgeWaitsForSpace`,
	},
	{
		name:  `a lock of another session is a failure of the job`,
		file:  `internal/tasks/worker.go`,
		old:   `case postgres.IsLocked(err), postgres.IsFull(err):`,
		text:  `case postgres.IsFull(err):`,
		tests: `TestPurgeWaitsForAForeignLock`,
	},
	{
		name:  `a yield counts as a failure of the task`,
		file:  `internal/dispatch/server.go`,
		old:   `			return !errors.As(err, &yield)`,
		text:  `			return err != nil || !errors.As(err, &yield)`,
		dir:   `internal/tasks`,
		tests: `TestYieldsAreNoFailures`,
	},
}
