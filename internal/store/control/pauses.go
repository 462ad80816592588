package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/audit"
	"lethe/internal/store/postgres"
)

// The scopes of pauses: one job, the jobs of a room, those of a kind, and all.
const (
	ScopeJob  = "job"
	ScopeRoom = "room"
	ScopeKind = "kind"
	ScopeAll  = "all"
)

var (
	// ErrScope is returned for a scope that is unknown, or without the value that it needs.
	ErrScope = errors.New("a pause is of a job, a room, a kind or all")

	// ErrUntil is returned for a pause that would have ended already.
	ErrUntil = errors.New("the pause would end in the past")
)

// A Pause keeps jobs from running until it is lifted, or until its end. A running job
// stops before its next batch.
type Pause struct {
	Scope string

	// Value is the id of the job or the room, or the kind. It is "all" for [ScopeAll].
	Value string

	Who, Reason string

	// Set is when it was set.
	Set time.Time

	// Until is when it ends by itself, zero for never.
	Until time.Time
}

const pauseColumns = `scope, value, who, reason, set_at, until`

func scanPause(row pgx.CollectableRow) (p Pause, err error) {
	var until *time.Time
	err = row.Scan(&p.Scope, &p.Value, &p.Who, &p.Reason, &p.Set, &until)
	p.Until = orZero(until)
	return p, err
}

// checkScope returns the value of the scope.
func checkScope(scope, value string) (string, error) {
	if scope == ScopeAll && value == "" {
		value = "all"
	}
	switch {
	case !slices.Contains([]string{ScopeJob, ScopeRoom, ScopeKind, ScopeAll}, scope), value == "", !postgres.Storable(value),
		scope == ScopeAll && value != "all":
		return "", ErrScope
	}
	return value, nil
}

// SetPause sets a pause, in place of one with the same scope and value, and returns it. It
// does not read Set. It fails with [ErrScope], or with [ErrUntil]. Queued jobs of the scope are paused when it returns, or at most some
// seconds later if there are more than 1,000.
func (c *Control) SetPause(ctx context.Context, pause Pause) (Pause, error) {
	const operation = "set the pause"
	value, err := checkScope(pause.Scope, pause.Value)
	if err != nil {
		return Pause{}, fmt.Errorf("%s: %w", operation, err)
	}
	pause.Value = value
	err = c.db.InTransaction(ctx, func(tx pgx.Tx) error {
		if pause, err = setPause(ctx, tx, pause); err != nil {
			return err
		}
		return audit.Note(ctx, tx, pause.entry(audit.SetPause, pause.Who))
	})
	if err == nil {
		_, err = c.pauses.PauseQueued(ctx, MaxPage)
	}
	if err != nil {
		return Pause{}, fmt.Errorf("%s: %w", operation, err)
	}
	return pause, nil
}

// counts is the condition that a pause p keeps jobs from running, or may do so. The pause of
// a job ends with the job, which may since have been pruned.
const counts = `
	(p.until IS NULL OR p.until > clock_timestamp())
	AND (p.scope <> 'job' OR EXISTS (SELECT FROM lethe.jobs j WHERE j.id = p.value AND j.ended_at IS NULL))`

func setPause(ctx context.Context, tx pgx.Tx, pause Pause) (Pause, error) {
	if _, err := tx.Exec(ctx, `DELETE FROM lethe.pauses p WHERE NOT (`+counts+`)`); err != nil {
		return Pause{}, err
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO lethe.pauses (scope, value, who, reason, until)
		SELECT $1, $2, $3, $4, $5::timestamptz WHERE $5::timestamptz IS NULL OR $5::timestamptz > clock_timestamp()
		ON CONFLICT (scope, value) DO UPDATE
		SET who = excluded.who, reason = excluded.reason, set_at = excluded.set_at, until = excluded.until
		RETURNING `+pauseColumns,
		pause.Scope, pause.Value, postgres.Sanitize(pause.Who), postgres.Sanitize(pause.Reason), orNil(pause.Until))
	if err != nil {
		return Pause{}, err
	}
	set, err := pgx.CollectExactlyOneRow(rows, scanPause)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrUntil
	}
	return set, err
}

// entry returns what is kept of a change of the pause.
func (p Pause) entry(action audit.Action, who string) audit.Entry {
	e := audit.Entry{Who: who, Action: action, Subject: p.Scope, Reason: p.Reason}
	switch p.Scope {
	case ScopeJob:
		e.Job = p.Value
	case ScopeRoom:
		e.Room = p.Value
	case ScopeKind:
		e.Subject = p.Value
	case ScopeAll:
		e.Subject = "all jobs"
	}
	if !p.Until.IsZero() {
		e.Detail = audit.Detail(map[string]any{"until_ts": p.Until.UnixMilli()})
	}
	return e
}

// LiftPause ends a pause for the user called who, and returns it. The jobs that it has kept from running are
// queued, unless another pause covers them. If there is no such pause, so also in a second
// call, it is [postgres.ErrNotFound].
func (c *Control) LiftPause(ctx context.Context, scope, value, who string) (lifted Pause, err error) {
	const operation = "lift the pause"
	if value, err = checkScope(scope, value); err != nil {
		return Pause{}, fmt.Errorf("%s: %w", operation, err)
	}
	err = c.db.InTransaction(ctx, func(tx pgx.Tx) error {
		if lifted, err = liftPause(ctx, tx, scope, value); err != nil {
			return err
		}
		return audit.Note(ctx, tx, Pause{Scope: scope, Value: value}.entry(audit.LiftPause, who))
	})
	if err == nil {
		_, err = c.pauses.Resume(ctx, MaxPage)
	}
	if err != nil {
		return Pause{}, fmt.Errorf("%s: %w", operation, err)
	}
	return lifted, nil
}

func liftPause(ctx context.Context, q postgres.Querier, scope, value string) (Pause, error) {
	rows, err := q.Query(ctx, `
		DELETE FROM lethe.pauses p WHERE scope = $1 AND value = $2 AND `+counts+` RETURNING `+pauseColumns, scope, value)
	if err != nil {
		return Pause{}, err
	}
	lifted, err := pgx.CollectExactlyOneRow(rows, scanPause)
	if errors.Is(err, pgx.ErrNoRows) {
		err = postgres.ErrNotFound
	}
	return lifted, err
}

// endPause ends the pause of a job that has ended. Otherwise a retry would be paused by it.
func endPause(ctx context.Context, tx pgx.Tx, id string) error {
	_, err := tx.Exec(ctx, `DELETE FROM lethe.pauses WHERE scope = 'job' AND value = $1`, id)
	return err
}

// Pauses returns the pauses that count now, the last set first, at most [MaxPage].
func (c *Control) Pauses(ctx context.Context) ([]Pause, error) {
	pauses, err := postgres.ReadAll(ctx, c.db, scanPause, `
		SELECT `+pauseColumns+` FROM lethe.pauses p WHERE `+counts+`
		ORDER BY set_at DESC, scope, value LIMIT $1`, MaxPage)
	if err != nil {
		return nil, fmt.Errorf("list the pauses: %w", err)
	}
	return pauses, nil
}
