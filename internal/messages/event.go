package messages

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/store/timeline"
)

// Event returns an event of a room to a server admin, in the form that servers get. It
// hides nothing: a redacted event is returned as it was sent, if the homeserver still has
// that. It adds nothing of other events: neither aggregations nor the state that was
// replaced. The error is [ErrEventNotFound] if the room has no such event, if the event was
// rejected, or if it cannot be read.
func (m *Messages) Event(ctx context.Context, room, eventID string, reader Reader) (json.RawMessage, error) {
	var text json.RawMessage
	err := m.read(ctx, room, nil, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		events, err := snapshot.EventsOf(ctx, room, []string{eventID}, timeline.EventFilter{})
		switch {
		case err != nil:
			return err
		case len(events) == 0 || !readable(events[0]):
			return ErrEventNotFound
		}
		event := events[0]
		event.RedactedBy = nil
		format := Format{Room: room, Reader: reader, Raw: true, StrippedState: true, Now: now()}
		text, _ = format.Append(nil, &event, nil)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	return text, nil
}
