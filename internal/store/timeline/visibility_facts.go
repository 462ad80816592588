package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A VisibilityQuestion asks for what says which events of a page a user may see.
// Of each list, what is there twice is asked once.
type VisibilityQuestion struct {
	// Room is the room of the page, and Reader the user.
	Room, Reader string

	// Groups are the state groups of the events, Senders their senders, and
	// Replaced the ids of the state events that they say they replaced, which may
	// be any text.
	Groups   []int64
	Senders  []string
	Replaced []string

	// AdminConfig asks for what the user wants to be shown as a server admin.
	AdminConfig bool
}

// VisibilityFacts is the answer.
type VisibilityFacts struct {
	// States is the state of each state group. A group that is not there, or whose
	// state is no room's, is left out: nobody knows who may see its events.
	States map[int64]StateAt

	// Events are the events of those states, and the replaced ones, by their ids.
	// One that is gone, was rejected or is of another room is left out. None has
	// been checked, nor redacted: a redaction would leave what they say of who may
	// see what.
	Events map[string]json.RawMessage

	// Ignored are those of the senders that the user ignores, Erased those who
	// wanted to be forgotten.
	Ignored, Erased map[string]bool

	// AdminConfig is what the user wants to be shown as a server admin, nil if it
	// wants nothing. It has not been checked.
	AdminConfig json.RawMessage
}

// VisibilityFacts reads them, in one round trip.
func (s *Snapshot) VisibilityFacts(ctx context.Context, question VisibilityQuestion) (VisibilityFacts, error) {
	facts := VisibilityFacts{
		States: map[int64]StateAt{}, Events: map[string]json.RawMessage{},
		Ignored: map[string]bool{}, Erased: map[string]bool{},
	}
	batch := &pgx.Batch{}
	if len(question.Senders) > 0 {
		queueHiddenSenders(batch, question.Reader, question.Senders, &facts)
	}
	if len(question.Groups) > 0 {
		queueStatesAt(batch, question, &facts)
	}
	question.Replaced = slices.DeleteFunc(slices.Clone(question.Replaced), func(id string) bool { return !postgres.Storable(id) })
	if len(question.Replaced) > 0 {
		queueReplaced(batch, question, &facts)
	}
	if question.AdminConfig {
		queueAdminConfig(batch, question.Reader, &facts)
	}
	if batch.Len() == 0 {
		return facts, nil
	}
	if err := s.tx.Send(ctx, batch); err != nil {
		return VisibilityFacts{}, fmt.Errorf("read who may see the events: %w", err)
	}
	return facts, nil
}
