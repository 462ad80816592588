package beside

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"lethe/internal/output"
	"lethe/internal/store/postgres"
)

// A Presence is what in a database shows that a homeserver is at work on it.
type Presence struct {
	// Role has Sessions connections to the database that belong neither to Lethe nor to
	// a known tool. It is "" if no role has two.
	Role     string
	Sessions int

	// Locks is the number of the homeserver's own locks that were renewed within the
	// last 2 minutes.
	Locks int
}

// Seen reports whether a homeserver seems to be at work.
func (p Presence) Seen() bool { return p.Sessions > 0 || p.Locks > 0 }

// String says what was seen, in words.
func (p Presence) String() string {
	var seen []string
	if p.Sessions > 0 {
		seen = append(seen, fmt.Sprintf("the role %s has %s that %s not Lethe's", p.Role,
			output.Counted(p.Sessions, "session"), output.Agree(p.Sessions, "is", "are")))
	}
	if p.Locks > 0 {
		seen = append(seen, fmt.Sprintf("%d of its locks %s fresh", p.Locks, output.Agree(p.Locks, "is", "are")))
	}
	if len(seen) == 0 {
		return "no homeserver seems to be at work on this database"
	}
	return strings.Join(seen, ", and ")
}

// notHomeserver matches the names under which Lethe and the tools of operators connect.
// A homeserver gives none.
const notHomeserver = `^(lethe|psql|pg_|pgadmin|dbeaver|datagrip|postgres_exporter|telegraf|datadog|barman|patroni|repmgr|walg|wal-g)`

// LookForHomeserver looks for sessions and locks of a homeserver. A homeserver keeps a
// pool, so a single session does not count. It does not find a homeserver that has been idle
// since its connections were closed. Locks of Lethe do not count.
func LookForHomeserver(ctx context.Context, db *postgres.DB) (Presence, error) {
	const operation = "look for a homeserver"
	var p Presence
	err := db.ReadRow(ctx, []any{&p.Role, &p.Sessions}, `
		SELECT coalesce(usename::text, ''), count(*)
		FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()
		  -- NULL, if the role may not see it.
		  AND coalesce(backend_type, 'client backend') = 'client backend'
		  AND application_name !~* $1
		GROUP BY 1 HAVING count(*) > 1
		ORDER BY 2 DESC, 1 LIMIT 1`, notHomeserver)
	if err != nil && !errors.Is(err, postgres.ErrNotFound) {
		return Presence{}, fmt.Errorf("%s: %w", operation, err)
	}
	for _, table := range []string{"worker_locks", "worker_read_write_locks"} {
		var locks int
		readable, err := db.MayRead(ctx, table)
		if err == nil && readable {
			err = db.ReadRow(ctx, []any{&locks}, `
				SELECT count(*) FROM `+table+`
				WHERE last_renewed_ts::numeric > extract(epoch FROM clock_timestamp())::numeric * 1000.0 - $1 AND instance_name <> $2`,
				staleLock, InstanceName)
		}
		if err != nil {
			return Presence{}, fmt.Errorf("%s: %w", operation, err)
		}
		p.Locks += locks
	}
	return p, nil
}

// StateElsewhere reports whether the homeserver keeps the states of rooms in another
// database: here the newest events belong to state groups that do not exist.
func StateElsewhere(ctx context.Context, db *postgres.DB) (elsewhere bool, err error) {
	err = db.ReadRow(ctx, []any{&elsewhere}, `
		SELECT to_regclass('state_groups') IS NULL AND to_regclass('events') IS NOT NULL`)
	if err == nil && !elsewhere {
		err = db.ReadRow(ctx, []any{&elsewhere}, `
			WITH newest AS (
				SELECT m.state_group
				FROM (SELECT event_id FROM events WHERE NOT outlier ORDER BY stream_ordering DESC LIMIT 100) AS e
				JOIN event_to_state_groups m USING (event_id))
			SELECT count(*) > 0 AND pg_catalog.count(g.id) = 0 FROM newest n LEFT JOIN state_groups g ON g.id = n.state_group`)
	}
	if err != nil {
		return false, fmt.Errorf("look for the states of rooms: %w", err)
	}
	return elsewhere, nil
}
