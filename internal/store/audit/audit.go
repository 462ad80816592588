package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"lethe/internal/store/postgres"
)

// A Way is how a change was asked for.
type Way string

// The ways of changes.
const (
	API     Way = "api"
	CLI     Way = "cli"
	Console Way = "console"
)

// An Action is what was done.
type Action string

// The actions besides the verbs on jobs, which are actions by their own names.
const (
	// Request is a request for a job, which was accepted.
	Request Action = "request"

	Hold     Action = "hold"
	LiftHold Action = "lift_hold"

	// SetPause pauses a room, a kind, all jobs, or a job other than by a verb.
	SetPause  Action = "set_pause"
	LiftPause Action = "lift_pause"

	// SetLimits sets the fleet's limits for a kind, and SetBrake and ResetBrake the limits
	// of a signal of the brake.
	SetLimits  Action = "set_limits"
	SetBrake   Action = "set_brake"
	ResetBrake Action = "reset_brake"

	// Block keeps local users from joining a room.
	Block   Action = "block"
	Unblock Action = "unblock"
)

// Actions returns all actions, with the verbs.
func Actions() []Action {
	return []Action{
		Request, "cancel", "pause", "resume", "retry", "priority", Hold, LiftHold, SetPause, LiftPause, SetLimits, SetBrake, ResetBrake, Block, Unblock,
	}
}

type wayKey struct{}

// Through returns a context of changes that came by a way. A second call replaces the way.
func Through(ctx context.Context, way Way) context.Context {
	return context.WithValue(ctx, wayKey{}, way)
}

// WayOf returns the way of the context's changes. It is "" if Lethe makes them itself.
func WayOf(ctx context.Context) Way {
	way, _ := ctx.Value(wayKey{}).(Way)
	return way
}

// An Entry is a change, with who has made it.
type Entry struct {
	// ID and At are set when the entry is written. IDs are unique.
	ID int64
	At time.Time

	// Who is the user who has made the change, and Way how it was asked for. Way is "" if
	// that was not recorded.
	Who string
	Way Way

	Action Action

	// Subject is a kind of jobs, a signal of the brake, or what is paused. It is "" if Room
	// or Job says it.
	Subject string

	// Room and Job are the ids of the room and of the job, "" if the change has no room or no job.
	Room, Job string

	// Reason is why, in the words of the user, "" for no reason.
	Reason string

	// Detail is a JSON object with the values that were set. Its "before" has the values
	// that they replace. Defaults to nil, an empty object.
	Detail json.RawMessage
}

// Detail renders the details of an entry. Values that cannot be rendered are left out.
func Detail(values map[string]any) json.RawMessage {
	text, err := json.Marshal(values)
	if err != nil {
		return nil
	}
	return text
}

// Note writes an entry in a transaction, with the way of the context. It does not read ID,
// At and Way.
func Note(ctx context.Context, tx postgres.Execer, e Entry) error {
	detail := "{}"
	if len(e.Detail) > 0 {
		detail = string(e.Detail)
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO lethe.audit (who, way, action, subject, room_id, job_id, reason, detail)
		VALUES ($1, nullif($2, ''), $3, nullif($4, ''), nullif($5, ''), nullif($6, ''), nullif($7, ''), $8)`,
		postgres.Sanitize(e.Who), WayOf(ctx), e.Action, e.Subject, e.Room, e.Job, postgres.Sanitize(e.Reason), detail)
	if err != nil {
		return fmt.Errorf("write the audit: %w", err)
	}
	return nil
}
