package shutdown

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"lethe/internal/matrix"
	"lethe/internal/store/roomwriter"
)

// A state is that of a room, as far as it was asked for.
type state = map[matrix.StateKey]roomwriter.StateEvent

// A draft is an event that a local user is to send to a room.
type draft struct {
	kind, sender string
	stateKey     *string
	content      map[string]any

	// allow returns an error if the state does not allow the user to send it. Nil means
	// that the user may.
	allow func(state) error
}

// send writes a draft as the room's next event, after the extremities.
func (h *Embedded) send(ctx context.Context, room *roomwriter.RoomWriter, extremities roomwriter.Extremities, d draft) error {
	keys := matrix.AuthTypes(room.Version(), matrix.Event{
		Type: d.kind, Sender: d.sender, StateKey: d.stateKey, Content: d.content,
	})
	create := matrix.StateKey{Type: "m.room.create"}
	allowing, err := room.State(ctx, extremities, append(keys[:len(keys):len(keys)], create)...)
	if err != nil {
		return err
	}
	if _, ok := allowing[create]; !ok {
		return errNoCreate
	}
	if d.allow != nil {
		if err := d.allow(allowing); err != nil {
			return err
		}
	}
	at := matrix.Event{PrevEvents: extremities.Prev, Depth: extremities.Depth, OriginServerTS: extremities.Now}
	for _, key := range keys {
		if event, ok := allowing[key]; ok {
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

// sendNext is send with the extremities that the room has now.
func (h *Embedded) sendNext(ctx context.Context, room *roomwriter.RoomWriter, d draft) error {
	extremities, err := room.Extremities(ctx)
	if err != nil {
		return err
	}
	return h.send(ctx, room, extremities, d)
}

// seal makes the draft an event of the room, at the place that at says.
func (h *Embedded) seal(room *roomwriter.RoomWriter, d draft, at matrix.Event) (matrix.SealedEvent, error) {
	at.Type, at.RoomID, at.Sender, at.StateKey, at.Content = d.kind, room.ID(), d.sender, d.stateKey, d.content
	return at.Seal(room.Version(), h.options.ServerName, h.options.SigningKey)
}

// joining is the content of the event by which a local user joins.
func (h *Embedded) joining(ctx context.Context, w *roomwriter.EventWriter, user string) (map[string]any, error) {
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

// requireMembership returns an error unless the user has the membership.
func requireMembership(user, membership string) func(state) error {
	return func(s state) error {
		if s[membershipKey(user)].Membership != membership {
			return errNotMember
		}
		return nil
	}
}

// requireEntry returns an error unless the user may join the room.
func requireEntry(user string) func(state) error {
	return func(s state) error {
		var rules struct {
			Content struct {
				JoinRule string `json:"join_rule"`
			} `json:"content"`
		}
		// Rules that cannot be read admit no one.
		_ = json.Unmarshal(s[matrix.StateKey{Type: "m.room.join_rules"}].JSON, &rules)
		switch membership := s[membershipKey(user)].Membership; {
		case membership == "ban", membership != "invite" && rules.Content.JoinRule != "public":
			return errNotLetIn
		}
		return nil
	}
}
