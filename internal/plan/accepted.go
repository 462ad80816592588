package plan

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/matrix"
	"lethe/internal/store/journal"
)

// Accepted is the plan with which a job was accepted, as its row has it.
type Accepted struct {
	// Digest is that of the plan.
	Digest string `json:"digest"`

	// Tolerance is by how many events the room may have drifted.
	Tolerance int64 `json:"tolerance"`
}

// Encode returns it in JSON.
func (a Accepted) Encode() json.RawMessage {
	encoded, _ := json.Marshal(a) // cannot fail
	return encoded
}

// CheckJob is [Planner.Check] of a job's request with the plan in its row.
func (p *Planner) CheckJob(ctx context.Context, job journal.Job) error {
	var accepted Accepted
	if err := json.Unmarshal(job.Plan, &accepted); err != nil {
		return fmt.Errorf("decode the job's plan: %w", err)
	}
	var parameters struct {
		Token             matrix.Token `json:"token"`
		DeleteLocalEvents bool         `json:"delete_local_events"`
	}
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return fmt.Errorf("decode the job's parameters: %w", err)
	}
	return p.Check(ctx, Request{
		Kind: job.Kind, Room: job.Room, Before: parameters.Token, DeleteLocalEvents: parameters.DeleteLocalEvents,
	}, accepted.Digest, accepted.Tolerance)
}
