package shutdown

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"lethe/internal/matrix"
	"lethe/internal/store/journal"
	"lethe/internal/store/roomwriter"
)

// createRoom makes a room with the creator as its only member.
func (h *Embedded) createRoom(ctx context.Context, w *roomwriter.EventWriter, version matrix.RoomVersion, room NewRoom) (string, error) {
	create := map[string]any{"room_version": string(version)}
	if version.NamesCreator() {
		create["creator"] = room.Creator
	}
	writer, extremities, sealed, err := h.beginRoom(ctx, w, version, room.Creator, create)
	if err != nil {
		return "", err
	}
	if err := writer.Write(ctx, extremities, sealed); err != nil {
		return "", err
	}
	joining, err := h.joinContent(ctx, w, room.Creator)
	if err != nil {
		return "", err
	}
	for _, d := range []draft{
		{kind: "m.room.member", stateKey: &room.Creator, content: joining},
		{kind: "m.room.power_levels", content: powerLevels(version, room.Creator)},
		{kind: "m.room.join_rules", content: map[string]any{"join_rule": "public"}},
		{kind: "m.room.history_visibility", content: map[string]any{"history_visibility": "shared"}},
		{kind: "m.room.name", content: map[string]any{"name": room.Name}},
	} {
		if d.sender = room.Creator; d.stateKey == nil {
			d.stateKey = new(string)
		}
		if err := h.sendNext(ctx, writer, d); err != nil {
			return "", err
		}
	}
	return writer.ID(), nil
}

// beginRoom makes a room and its first event, but does not write the event.
func (h *Embedded) beginRoom(ctx context.Context, w *roomwriter.EventWriter, version matrix.RoomVersion, creator string,
	content map[string]any,
) (*roomwriter.RoomWriter, roomwriter.Extremities, matrix.SealedEvent, error) {
	now, err := w.Now(ctx)
	if err != nil {
		return nil, roomwriter.Extremities{}, matrix.SealedEvent{}, err
	}
	event := matrix.Event{
		Type: "m.room.create", Sender: creator, StateKey: new(string), Content: content,
		Depth: 1, OriginServerTS: now,
	}
	for {
		if version != "12" {
			event.RoomID = newRoomID(h.options.ServerName)
		}
		sealed, err := event.Seal(version, h.options.ServerName, h.options.SigningKey)
		if err != nil {
			return nil, roomwriter.Extremities{}, matrix.SealedEvent{}, err
		}
		room, err := w.NewRoom(ctx, sealed.RoomID, version, creator)
		switch {
		case err == nil:
			return room, roomwriter.Extremities{Depth: event.Depth, Now: now}, sealed, nil
		case !errors.Is(err, journal.ErrExists) || event.OriginServerTS-now >= maxIDAttempts:
			return nil, roomwriter.Extremities{}, matrix.SealedEvent{}, err
		}
		// Since version 12 a room is named after its create event, so two rooms that
		// one user makes in the same millisecond would have the same id.
		event.OriginServerTS++
	}
}

// maxIDAttempts bounds how many ids are tried, each a millisecond after the one
// before.
const maxIDAttempts = 100

// newRoomID returns a new room id with 18 random letters.
func newRoomID(server string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var id strings.Builder
	id.WriteByte('!')
	random := make([]byte, 1)
	for id.Len() < 19 {
		_, _ = rand.Read(random) // never fails
		// Larger values would make some letters more likely.
		if n := int(random[0]); n < 4*len(letters) {
			id.WriteByte(letters[n%len(letters)])
		}
	}
	return id.String() + ":" + server
}

// powerLevels returns the content of a new room's power levels: only the creator may
// change anything or send messages.
func powerLevels(version matrix.RoomVersion, creator string) map[string]any {
	users, tombstone := map[string]any{creator: 100}, 100
	if version == "12" { // where a creator has unlimited power
		users, tombstone = map[string]any{}, 150
	}
	return map[string]any{
		"ban": 50,
		"events": map[string]any{
			"m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100,
			"m.room.history_visibility": 100, "m.room.name": 50, "m.room.power_levels": 100,
			"m.room.server_acl": 100, "m.room.tombstone": tombstone,
		},
		"events_default": 0,
		"historical":     100,
		"invite":         50,
		"kick":           50,
		"m.call.invite":  50,
		"redact":         50,
		"state_default":  50,
		"users":          users,
		"users_default":  -10,
	}
}
