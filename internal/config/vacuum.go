package config

import "time"

const vacuumDoc = `After a job has ended, a worker vacuums the tables from which it has deleted much, one at a time in the
	whole fleet. It never runs VACUUM FULL, and it waits for no lock of a table.`

func vacuumSettings(v *Vacuum) []setting {
	return []setting{
		row("vacuum.enabled", "true", boolean(&v.Enabled),
			`Whether workers vacuum the tables that jobs have emptied, and read the index entries of purged events. If
			false, all of that is left to autovacuum, and pages at the edge of a purged history are slow until then.`),
		row("vacuum.database_url", "", optional(&v.DatabaseURL, databaseURLFormat).secret().like("postgres://lethe_vacuum:password@127.0.0.1:5432/synapse"),
			`A PostgreSQL URL, or keyword=value text, for the role that vacuums: the database is that of database.url. Without
			this setting it is the role of the worker. Only the owner of a table may vacuum it, or from PostgreSQL 17 a role
			with the privilege MAINTAIN: "lethe doctor --for vacuum" prints what to grant. A table that the role may not
			vacuum is left to autovacuum.`),
		row("vacuum.dead_share", "0.05", share(&v.DeadShare, 0),
			`The share of a table's rows that must be dead before Lethe vacuums it, from 0, which is always, to 1. Rows that
			earlier jobs and others have left count too.`),
		row("vacuum.min_rows", "10000", number(&v.MinRows, 0, 1_000_000_000),
			`How many rows of a table must be dead before Lethe vacuums it.`),
		row("vacuum.cost_delay", "2ms", duration(&v.CostDelay, 0, 100*time.Millisecond),
			`How long a VACUUM pauses each time its cost has reached vacuum.cost_limit, as vacuum_cost_delay of PostgreSQL. 0s
			is no pause.`),
		row("vacuum.cost_limit", "1000", number(&v.CostLimit, 1, 10_000),
			`The cost up to a pause, as vacuum_cost_limit of PostgreSQL: a page in memory costs 1, a page that is read 2, and a
			page that is changed 20. Autovacuum's default is 200.`),
		row("vacuum.timeout", "1h", duration(&v.Timeout, time.Second, 7*24*time.Hour),
			`How long the VACUUM of one table may take. After that it is cancelled, and the table is left to autovacuum.`),
		row("vacuum.snapshot_wait", "5m", duration(&v.SnapshotWait, 0, 24*time.Hour),
			`How long the tables wait, from the job's end, for the end of transactions that may still see the deleted rows.
			While one is open, no VACUUM can remove them. After that, the tables are left to autovacuum.`),
		row("vacuum.index_walk", "true", boolean(&v.IndexWalk),
			`Whether the index entries of purged events are read once after a purge, before the VACUUM. PostgreSQL marks those
			as dead then, so that pages at the edge of the purged history are fast at once, also where no role may
			vacuum.`),
	}
}
