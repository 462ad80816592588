package shutdown

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"lethe/internal/matrix"
	"lethe/internal/store/roomwriter"
)

// A state is a part of a room's state.
type state = map[matrix.StateKey]roomwriter.StateEvent

// A draft is an event that a local user is going to send to a room.
type draft struct {
	kind, sender string
	stateKey     *string
	content      map[string]any

	// checkAllowed returns an error if the room's state does not allow the user to send
	// it. Nil means that the user may.
	checkAllowed func(state) error
}

// send writes a draft as the room's next event, after the extremities.
func (h *Embedded) send(ctx context.Context, room *roomwriter.RoomWriter, extremities roomwriter.Extremities, d draft) error {
	keys := matrix.AuthTypes(room.Version(), matrix.Event{
		Type: d.kind, Sender: d.sender, StateKey: d.stateKey, Content: d.content,
	})
	create := matrix.StateKey{Type: "m.room.create"}
	authState, err := room.State(ctx, extremities, append(keys[:len(keys):len(keys)], create)...)
	if err != nil {
		return err
	}
	if _, ok := authState[create]; !ok {
		return errNoCreate
	}
	if d.checkAllowed != nil {
		if err := d.checkAllowed(authState); err != nil {
			return err
		}
	}
	at := matrix.Event{PrevEvents: extremities.Prev, Depth: extremities.Depth, OriginServerTS: extremities.Now}
	for _, key := range keys {
		if event, ok := authState[key]; ok {
			at.AuthEvents = append(at.AuthEvents, event.ID)
		}
	}
	if at.ReferenceHashes, err = room.ReferenceHashes(ctx, slices.Concat(at.PrevEvents, at.AuthEvents)); err != nil {
		return err
	}
	sealed, err := h.seal(room, d, at)
	if err != nil {
		return err
	}
	return room.Write(ctx, extremities, sealed)
}

// sendNext is send at the present extremities of the room.
func (h *Embedded) sendNext(ctx context.Context, room *roomwriter.RoomWriter, d draft) error {
	extremities, err := room.Extremities(ctx)
	if err != nil {
		return err
	}
	return h.send(ctx, room, extremities, d)
}

// seal makes an event of the room from the draft. at has its place in the room.
func (h *Embedded) seal(room *roomwriter.RoomWriter, d draft, at matrix.Event) (matrix.SealedEvent, error) {
	at.Type, at.RoomID, at.Sender, at.StateKey, at.Content = d.kind, room.ID(), d.sender, d.stateKey, d.content
	return at.Seal(room.Version(), h.options.ServerName, h.options.SigningKey)
}

// joinContent returns the content of a local user's join.
func (h *Embedded) joinContent(ctx context.Context, w *roomwriter.EventWriter, user string) (map[string]any, error) {
	localpart, _, _ := strings.Cut(strings.TrimPrefix(user, "@"), ":")
	displayName, avatarURL, err := w.Profile(ctx, localpart)
	if err != nil {
		return nil, err
	}
	content := map[string]any{"membership": "join"}
	if displayName != nil {
		content["displayname"] = *displayName
	}
	if avatarURL != nil {
		content["avatar_url"] = *avatarURL
	}
	return content, nil
}

func membershipKey(user string) matrix.StateKey {
	return matrix.StateKey{Type: "m.room.member", Key: user}
}

// requireMembership returns a check that the user has the membership.
func requireMembership(user, membership string) func(state) error {
	return func(s state) error {
		if s[membershipKey(user)].Membership != membership {
			return errNotMember
		}
		return nil
	}
}

// requireMayJoin returns a check that the user may join the room.
func requireMayJoin(user string) func(state) error {
	return func(s state) error {
		var rules struct {
			Content struct {
				JoinRule string `json:"join_rule"`
			} `json:"content"`
		}
		// With rules that cannot be read, no user may join.
		_ = json.Unmarshal(s[matrix.StateKey{Type: "m.room.join_rules"}].JSON, &rules)
		switch membership := s[membershipKey(user)].Membership; {
		case membership == "ban", membership != "invite" && rules.Content.JoinRule != "public":
			return errMayNotJoin
		}
		return nil
	}
}
