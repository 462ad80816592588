package shutdown

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/matrix"
	"lethe/internal/store/roomwriter"
)

// A userRemover removes users from a room, one after another, in one transaction.
type userRemover struct {
	*Embedded
	w             *roomwriter.EventWriter
	room, newRoom string
	opened        map[string]openedRoom
}

// An openedRoom is a room, or why it cannot be written into.
type openedRoom struct {
	room    *roomwriter.RoomWriter
	refused error
}

// remove removes one user. refused says why the user cannot be removed.
func (r *userRemover) remove(ctx context.Context, user string) (refused, err error) {
	member, err := r.w.Membership(ctx, r.room, user)
	if err != nil {
		return nil, err
	}
	switch member.Membership {
	case "join", "invite", "knock":
	default:
		return nil, nil
	}
	refused, err = r.attempt(ctx, r.room, func(room *roomwriter.RoomWriter) error { return r.leave(ctx, room, user, member) })
	if refused != nil && err == nil && member.Membership != "join" {
		r.options.Log.InfoContext(ctx, "membership ended without an event",
			"room", r.room, "user", user, "membership", member.Membership, "error", refused)
		return r.w.Attempt(ctx, func() error { return r.w.DropMembership(ctx, r.room, user) })
	}
	if refused != nil || err != nil || r.newRoom == "" || member.Membership != "join" {
		return refused, err
	}
	// A separate attempt: a user who cannot join the new room has still left the old
	// one.
	return r.attempt(ctx, r.newRoom, func(room *roomwriter.RoomWriter) error { return r.join(ctx, room, user) })
}

// attempt runs do with the room. It opens the room before, so that the room's lock
// outlives a failed attempt. A room that cannot be written into is a refusal.
func (r *userRemover) attempt(ctx context.Context, id string, do func(*roomwriter.RoomWriter) error) (refused, err error) {
	opened, known := r.opened[id]
	if !known {
		if opened.room, opened.refused, err = r.openRoom(ctx, r.w, id); err != nil {
			return nil, err
		}
		r.opened[id] = opened
	}
	if opened.refused != nil {
		return opened.refused, nil
	}
	return r.w.Attempt(ctx, func() error { return do(opened.room) })
}

// leave makes the user leave the room and forget it.
func (r *userRemover) leave(ctx context.Context, room *roomwriter.RoomWriter, user string, member roomwriter.Membership) error {
	extremities, err := room.Extremities(ctx)
	if err != nil {
		return err
	}
	known, err := room.State(ctx, extremities, membershipKey(user))
	if err != nil {
		return err
	}
	leave := draft{
		kind: "m.room.member", sender: user, stateKey: &user,
		content: map[string]any{"membership": "leave"}, checkAllowed: requireMembership(user, member.Membership),
	}
	switch {
	case known[membershipKey(user)].ID == member.EventID:
		err = r.send(ctx, room, extremities, leave)
	case member.Outlier && member.Membership != "join" && !extremities.Current:
		err = r.rejectInvitation(ctx, room, extremities, leave, member.EventID)
	default:
		err = errNotMember
	}
	if err != nil {
		return err
	}
	return r.w.Forget(ctx, r.room, user)
}

// maxCopiedAuthEvents is the maximum number of an invitation's auth events that its
// rejection copies. With the invitation itself they are 10, the maximum for an
// event.
const maxCopiedAuthEvents = 9

// rejectInvitation makes the user reject an invitation to a room without local
// users, or withdraw a knock on it. Only the invitation's event is known of such a
// room. So the auth events of the leave are the invitation and its auth events.
func (r *userRemover) rejectInvitation(ctx context.Context, room *roomwriter.RoomWriter, extremities roomwriter.Extremities, leave draft, invitation string) error {
	text, err := r.w.EventJSON(ctx, invitation)
	if err != nil {
		return err
	}
	var event struct {
		AuthEvents json.RawMessage `json:"auth_events"`
		Depth      int64           `json:"depth"`
	}
	if err := json.Unmarshal(text, &event); err != nil {
		return fmt.Errorf("decode the invitation: %w", err)
	}
	auth, hashes, err := matrix.References(room.Version(), event.AuthEvents)
	if err != nil {
		return fmt.Errorf("decode the invitation: %w", err)
	}
	if room.Version().HasReferenceHashes() {
		if hashes[invitation], err = matrix.ReferenceHash(room.Version(), text); err != nil {
			return fmt.Errorf("refer to the invitation: %w", err)
		}
	}
	copied := min(len(auth), maxCopiedAuthEvents)
	sealed, err := r.seal(room, leave, matrix.Event{
		PrevEvents: []string{invitation}, AuthEvents: append(auth[:copied:copied], invitation), ReferenceHashes: hashes,
		Depth: roomwriter.NextDepth(event.Depth), OriginServerTS: extremities.Now,
	})
	if err != nil {
		return err
	}
	return room.WriteOutOfBand(ctx, extremities, sealed)
}

// join makes the user join the new room, if the user is not joined.
func (r *userRemover) join(ctx context.Context, room *roomwriter.RoomWriter, user string) error {
	member, err := r.w.Membership(ctx, room.ID(), user)
	if err != nil || member.Membership == "join" {
		return err
	}
	content, err := r.joinContent(ctx, r.w, user)
	if err != nil {
		return err
	}
	return r.sendNext(ctx, room, draft{
		kind: "m.room.member", sender: user, stateKey: &user, content: content, checkAllowed: requireMayJoin(user),
	})
}
