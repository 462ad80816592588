package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"lethe/internal/store/postgres"
	"lethe/internal/store/rowcache"

	"github.com/jackc/pgx/v5"
)

// A VisibilityQuery asks for the facts that decide which events of a page a user may
// see. Duplicates in its lists are looked up once.
type VisibilityQuery struct {
	// Room is the room of the page, and Reader the user.
	Room, Reader string

	// Groups are the state groups of the events, Senders their senders, and Replaced
	// the ids of the state events that they claim to replace, which may be any text.
	Groups   []int64
	Senders  []string
	Replaced []string

	// AdminConfig requests the user's settings as a server admin.
	AdminConfig bool
}

// VisibilityFacts is the result of a VisibilityQuery.
type VisibilityFacts struct {
	// States are the states of the state groups. A group that is unknown, or of whose
	// state a part seems to be lost, is left out: it is unknown who may see its events.
	// If the state lacks only the create event, it is not left out.
	States map[int64]StateAt

	// Events are the events of those states, and the replaced events, by their ids. An
	// event that is gone, was rejected or is in another room is left out. The events
	// have been neither validated nor redacted: a redaction would not change who may
	// see what.
	Events map[string]json.RawMessage

	// Ignored are the senders whom the user ignores, and Erased the senders who had
	// their account erased.
	Ignored, Erased map[string]bool

	// AdminConfig is the user's settings as a server admin, nil without settings. It
	// has not been validated.
	AdminConfig json.RawMessage
}

// VisibilityFacts runs the query in one round trip.
func (s *Snapshot) VisibilityFacts(ctx context.Context, query VisibilityQuery) (VisibilityFacts, error) {
	facts := VisibilityFacts{
		States: map[int64]StateAt{}, Events: map[string]json.RawMessage{},
		Ignored: map[string]bool{}, Erased: map[string]bool{},
	}
	batch := &pgx.Batch{}
	if len(query.Senders) > 0 {
		queueHiddenSenders(batch, query.Reader, query.Senders, &facts)
	}
	cached, others := s.cachedStates(query)
	versions := map[int64]rowcache.Version{}
	if len(cached) > 0 {
		queueVersions(batch, query.Room, cached, versions)
		s.queueMoment(batch)
	}
	if query.Groups = others; len(others) > 0 {
		s.queueStatesAt(batch, query, &facts)
	}
	for _, c := range cached {
		// What the events say is read each time: they may be rejected, or be gone.
		query.Replaced = append(query.Replaced, c.state.HistoryVisibility, c.state.JoinRules, c.state.Member)
	}
	query.Replaced = slices.DeleteFunc(distinct(query.Replaced), func(id string) bool { return id == "" || !postgres.Storable(id) })
	if len(query.Replaced) > 0 {
		queueReplaced(batch, query, &facts)
	}
	if query.AdminConfig {
		queueAdminConfig(batch, query.Reader, &facts)
	}
	if batch.Len() == 0 {
		return facts, nil
	}
	if err := s.tx.Send(ctx, batch); err != nil {
		return VisibilityFacts{}, fmt.Errorf("read who may see the events: %w", err)
	}
	var changed []int64
	for _, c := range cached {
		state, ok := s.cache.states.Get(keyOf(c.group, query.Reader), versions[c.group], s.moment)
		if ok && state == c.state {
			facts.States[c.group] = state
		} else {
			changed = append(changed, c.group)
		}
	}
	if len(changed) == 0 {
		return facts, nil
	}
	batch = &pgx.Batch{}
	query.Groups = changed
	s.queueStatesAt(batch, query, &facts)
	if err := s.tx.Send(ctx, batch); err != nil {
		return VisibilityFacts{}, fmt.Errorf("read who may see the events: %w", err)
	}
	return facts, nil
}

// distinct returns the texts in an order, each once, in memory of their own.
func distinct(texts []string) []string { return slices.Compact(slices.Sorted(slices.Values(texts))) }
