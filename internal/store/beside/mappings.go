package beside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// ErrCorruptMappings is returned when an index of event_to_state_groups shows rows of
// other events than those that were looked up.
var ErrCorruptMappings = errors.New("an index of event_to_state_groups is corrupt: REINDEX TABLE event_to_state_groups")

const (
	// maxSweptEvents bounds the events of one sweep, unless one batch of a purge has
	// more.
	maxSweptEvents = 20_000

	// maxSweptBatches bounds the rows of lethe.delayed_mappings of one sweep.
	maxSweptBatches = 500

	// heldPause is the time for which the mappings of a held room are left alone.
	heldPause = 30 * time.Second

	// maxReturned bounds the attempts of one sweep that finds events that have come
	// back.
	maxReturned = 5
)

// A Sweep is the result of [SweepMappings].
type Sweep struct {
	// Batches is the number of batches of purges whose mappings are gone.
	Batches int

	// Mappings is the number of deleted rows of event_to_state_groups.
	Mappings int64

	// Position is the id of the newest invalidation that the sweep has written, 0 if it
	// had none to write.
	Position int64
}

// SweepMappings deletes mappings of purged events that are due, of one room, or of all
// rooms if room is "". It sweeps up to 20,000 events at a time: call it again until
// nothing is due. The state groups that lose an event become candidates for
// collection. Any number of callers may sweep at once.
//
// It leaves the mapping of an event that is in the room's history again, since another
// server has sent it once more. It leaves those of held rooms.
func SweepMappings(ctx context.Context, db *postgres.DB, room string) (done Sweep, err error) {
	// A homeserver that stores such an event while the sweep runs has either written its
	// mapping before the sweep deletes it: then the next statement sees the event, and
	// the sweep begins again without it. Or it writes the mapping after the sweep's
	// commit.
	returned := []string{} // not nil, which would be NULL
	for range maxReturned {
		var more []string
		err = db.InTransaction(ctx, func(tx pgx.Tx) error {
			done, more, err = sweep(ctx, tx, room, returned)
			return err
		})
		if !errors.Is(err, errReturned) {
			break
		}
		returned = append(returned, more...)
	}
	if err != nil {
		return Sweep{}, fmt.Errorf("sweep the mappings of purged events: %w", err)
	}
	return done, nil
}

// errReturned is returned by a sweep that has met events that came back.
var errReturned = errors.New("purged events have come back")

func sweep(ctx context.Context, tx pgx.Tx, room string, spared []string) (done Sweep, returned []string, err error) {
	if _, err := tx.Exec(ctx, `
		SELECT set_config('synchronous_commit', 'off', true), set_config('jit', 'off', true)`); err != nil {
		return done, nil, err
	}
	ids, rooms, err := pickBatches(ctx, tx, room)
	if err != nil || len(ids) == 0 {
		return done, nil, err
	}
	var mappings, wrong int64
	var events []string
	if err := tx.QueryRow(ctx, `
		WITH swept AS (
			DELETE FROM lethe.delayed_mappings WHERE id = ANY ($1) RETURNING room_id, event_ids, job_id
		), picked AS MATERIALIZED (
			SELECT room_id, event_id, job_id FROM swept CROSS JOIN pg_catalog.unnest(event_ids) AS event_id WHERE event_id <> ALL ($2)
		), gone AS (
			DELETE FROM event_to_state_groups g WHERE g.event_id = ANY (ARRAY(SELECT event_id FROM picked))
			RETURNING g.state_group, g.event_id
		), noted AS (
			INSERT INTO lethe.state_group_candidates (room_id, state_group)
			SELECT DISTINCT p.room_id, g.state_group FROM gone g JOIN picked p ON p.event_id = g.event_id
			WHERE EXISTS (SELECT FROM state_groups s WHERE s.id = g.state_group) -- the room may have been deleted since
			ON CONFLICT DO NOTHING
		), counted AS (
			-- In an order, so that two sweeps do not wait for each other. A job that was pruned
			-- needs no count.
			INSERT INTO lethe.swept_mappings AS m (job_id, mappings)
			SELECT p.job_id, count(*) FROM gone g JOIN picked p ON p.event_id = g.event_id JOIN lethe.jobs j ON j.id = p.job_id
			GROUP BY p.job_id ORDER BY p.job_id
			ON CONFLICT (job_id) DO UPDATE SET mappings = m.mappings + excluded.mappings
		)
		SELECT count(*), count(*) FILTER (WHERE event_id NOT IN (SELECT event_id FROM picked)),
		       ARRAY(SELECT event_id FROM picked) FROM gone`, ids, spared).Scan(&mappings, &wrong, &events); err != nil {
		return done, nil, fmt.Errorf("delete mappings: %w", err)
	}
	if wrong > 0 {
		return done, nil, ErrCorruptMappings
	}
	if returned, err = postgres.Collect(ctx, tx, pgx.RowTo[string],
		`SELECT event_id FROM events WHERE event_id = ANY ($1) AND NOT outlier`, events); err != nil {
		return done, nil, fmt.Errorf("look for events that have come back: %w", err)
	}
	if len(returned) > 0 {
		return done, returned, errReturned
	}
	done = Sweep{Batches: len(ids), Mappings: mappings}
	for _, room := range rooms {
		if err := postgres.RunIn(ctx, tx, Invalidate(PurgedHistory, room, &done.Position)...); err != nil {
			return done, nil, err
		}
	}
	return done, nil, nil
}

// pickBatches locks batches that are due and whose rooms are not held. untold are their
// rooms of which the homeserver has not been told.
func pickBatches(ctx context.Context, tx pgx.Tx, room string) (ids []int64, untold []string, err error) {
	type batch struct {
		ID   int64
		Room string
		Told bool
	}
	picked, err := postgres.Collect(ctx, tx, pgx.RowToStructByPos[batch], `
		SELECT id, room_id, told FROM lethe.delayed_mappings
		WHERE id IN (
			SELECT id FROM (
				SELECT id, row_number() OVER running AS place, sum(pg_catalog.cardinality(event_ids)) OVER running AS events
				FROM (
					SELECT id, due_at, event_ids FROM lethe.delayed_mappings
					WHERE due_at <= clock_timestamp() AND ($1 = '' OR room_id = $1)
					ORDER BY due_at, id LIMIT $2) AS due
				WINDOW running AS (ORDER BY due_at, id)
			) AS summed WHERE events <= $3 OR place = 1)
		FOR UPDATE SKIP LOCKED`, room, maxSweptBatches, maxSweptEvents)
	if err != nil || len(picked) == 0 {
		return nil, nil, err
	}
	var rooms []string
	for _, b := range picked {
		rooms = append(rooms, b.Room)
	}
	slices.Sort(rooms)
	rooms = slices.Compact(rooms)
	held, err := journal.HeldOf(ctx, tx, rooms)
	if err != nil {
		return nil, nil, err
	}
	var paused []int64
	for _, b := range picked {
		switch {
		case slices.Contains(held, b.Room):
			paused = append(paused, b.ID)
			continue
		case !b.Told && !slices.Contains(untold, b.Room):
			untold = append(untold, b.Room)
		}
		ids = append(ids, b.ID)
	}
	if len(paused) > 0 {
		_, err = tx.Exec(ctx, `UPDATE lethe.delayed_mappings SET due_at = clock_timestamp() + $2::interval WHERE id = ANY ($1)`,
			paused, heldPause)
	}
	return ids, untold, err
}

// A Delay says which mappings a batch of a purge leaves, and for how long.
type Delay struct {
	Room string

	// Job is the id of the purge, for which the mappings count that are deleted later.
	Job string

	// Events is a query for the ids of the events.
	Events string

	// For is how long the mappings stay after the batch's commit, which follows within
	// Commit.
	For, Commit time.Duration

	// Unconfirmed says that they stay until [Confirm].
	Unconfirmed bool

	// Told says that the batch tells the homeserver of the events, see [Invalidate].
	Told bool
}

// Statements are the statements that record the delay. After them the batch must not
// wait for a lock: the server ends the transaction only if it is idle for longer than
// Commit.
func (d Delay) Statements() []postgres.Statement {
	due := `clock_timestamp() + $2::interval`
	if d.Unconfirmed {
		due = `CASE WHEN $2::interval IS NOT NULL THEN timestamptz 'infinity' END`
	}
	return []postgres.Statement{
		{
			What: "delay the mappings",
			SQL: `
				INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at, job_id)
				SELECT $1, pg_catalog.array_agg(s.event_id), $3, ` + due + `, $4 FROM (` + d.Events + `) AS s HAVING count(*) > 0`,
			Args: []any{d.Room, d.For + d.Commit, d.Told, d.Job},
		},
		{
			What: "bound the wait for the commit",
			SQL:  `SELECT set_config('idle_in_transaction_session_timeout', $1, true)`,
			Args: []any{postgres.Milliseconds(d.Commit)},
		},
	}
}

// A Backlog is the mappings of a room that wait for their deletion.
type Backlog struct {
	// Batches is the number of batches whose mappings are due within the delay.
	Batches int

	// Until is the time until the last of them is due, 0 if all are.
	Until time.Duration

	// Unconfirmed says that some wait until the homeserver has confirmed that it has
	// forgotten the events.
	Unconfirmed bool
}

// BacklogOf returns the mappings of a room that wait, and are due within the delay or
// unconfirmed. Others are of purges that have failed, see [EndUnconfirmed]. A room without
// such mappings has a zero Backlog.
func BacklogOf(ctx context.Context, db *postgres.DB, room string, delay time.Duration) (d Backlog, err error) {
	err = db.ReadRow(ctx, []any{&d.Batches, &d.Until, &d.Unconfirmed}, `
		SELECT count(*) FILTER (WHERE due_at < 'infinity'),
		       greatest(coalesce(max(due_at) FILTER (WHERE due_at < 'infinity') - clock_timestamp(), interval '0'), interval '0'),
		       coalesce(bool_or(due_at = 'infinity'), false)
		FROM lethe.delayed_mappings
		WHERE room_id = $1 AND (due_at <= clock_timestamp() + $2::interval OR due_at = 'infinity')`, room, delay)
	if err != nil {
		return Backlog{}, fmt.Errorf("look for mappings of purged events: %w", err)
	}
	return d, nil
}

// MarkTold is the statement that records that the transaction tells the homeserver of
// all events of the room that other batches have purged so far. It waits for sweeps.
func MarkTold(room string) postgres.Statement {
	return postgres.Statement{
		What: "mark the purged events as told",
		SQL:  `UPDATE lethe.delayed_mappings SET told = true WHERE room_id = $1 AND NOT told`,
		Args: []any{room},
	}
}

// AwaitReceipts is the statement that records that a homeserver may write receipts for
// events of the room, which is deleted, for as long.
func AwaitReceipts(room string, wait time.Duration) postgres.Statement {
	return postgres.Statement{
		What: "await receipts",
		SQL: `
			INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at)
			VALUES ($1, '{}', true, clock_timestamp() + $2::interval)`,
		Args: []any{room, wait},
	}
}

// ForgetRedactions is the statement that deletes what is left of redactions in a room
// whose history was purged and that is about to be deleted: redactions that have
// outlived their event, because the redacted one stayed.
func ForgetRedactions(room string) postgres.Statement {
	return postgres.Statement{
		What: "forget redactions",
		SQL: `
			DELETE FROM redactions t USING events e
			WHERE e.room_id = $1 AND t.redacts = e.event_id
			  AND NOT EXISTS (SELECT FROM events x WHERE x.event_id = t.event_id OFFSET 0)`,
		Args: []any{room},
	}
}

// Confirm makes all mappings of the room due within the delay, because the homeserver
// has forgotten their events. Those that are due earlier stay so.
func Confirm(ctx context.Context, db *postgres.DB, room string, delay time.Duration) error {
	_, err := db.Exec(ctx, `
		UPDATE lethe.delayed_mappings SET told = true, due_at = clock_timestamp() + $2::interval
		WHERE room_id = $1 AND due_at > clock_timestamp() + $2::interval`, room, delay)
	if err != nil {
		return fmt.Errorf("confirm the purged events: %w", err)
	}
	return nil
}

// unconfirmedTime is how long mappings stay whose purge does not ask the homeserver for
// a confirmation any more. By default Synapse keeps an entry that is not used for 30
// minutes in its caches.
const unconfirmedTime = time.Hour

// EndUnconfirmed makes mappings that wait for a confirmation due after an hour, if their
// rooms have no purge left that would ask for one: it has failed or was cancelled. It
// returns the number of batches.
func EndUnconfirmed(ctx context.Context, db *postgres.DB) (int64, error) {
	tag, err := db.Exec(ctx, `
		UPDATE lethe.delayed_mappings d SET due_at = clock_timestamp() + $1::interval
		WHERE d.due_at = 'infinity' AND NOT EXISTS (
			SELECT FROM lethe.jobs j
			WHERE j.room_id = d.room_id AND j.kind = 'purge_history' AND j.state NOT IN ('complete', 'failed', 'cancelled'))`, unconfirmedTime)
	if err != nil {
		return 0, fmt.Errorf("end the wait for a confirmation: %w", err)
	}
	return tag.RowsAffected(), nil
}

// EndDelay makes all mappings of the room due now, and reports whether there were any.
// The room itself has been deleted, and with it everything that could need them.
func EndDelay(ctx context.Context, db *postgres.DB, room string) (waited bool, err error) {
	tag, err := db.Exec(ctx, `
		UPDATE lethe.delayed_mappings SET told = true, due_at = clock_timestamp() WHERE room_id = $1`, room)
	if err != nil {
		return false, fmt.Errorf("end the delay of mappings: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}
