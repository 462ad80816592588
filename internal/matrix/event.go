package matrix

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// maxEvent is the maximum size of an event's canonical JSON, in bytes.
	maxEvent = 65536

	// maxPrevEvents and maxAuthEvents are the maximum numbers of events in an
	// event's PrevEvents and AuthEvents.
	maxPrevEvents = 20
	maxAuthEvents = 10
)

// ErrTooLarge is returned for an event that homeservers reject for its size: more
// than 64 KiB of JSON, a type, sender, room id or state key of more than 255 bytes,
// more than 20 previous events or more than 10 auth events.
var ErrTooLarge = errors.New("the event is too large")

// An Event is the contents of an event before it is sealed.
type Event struct {
	// Type is the event's type, such as m.room.member.
	Type string

	// RoomID is the id of the event's room. Since version 12 it is "" for an
	// m.room.create event, whose own id becomes the room's id.
	RoomID string

	// Sender is the user id of the sender.
	Sender string

	// StateKey makes the event a state event. Defaults to nil: not a state event.
	StateKey *string

	// Content may have the types that encoding/json returns, and Go's own
	// booleans, strings, integers, maps with string keys and slices. Numbers must
	// be integers within ±(2^53-1). Defaults to nil: an empty object.
	Content map[string]any

	// Depth is one more than the largest depth of the previous events.
	Depth int64

	// PrevEvents are the ids of the events that this event follows. AuthEvents are
	// the ids of the state events that allow it: see [AuthTypes].
	PrevEvents, AuthEvents []string

	// ReferenceHashes are the hashes of the previous and auth events, by id: see
	// [ReferenceHash]. Only the versions 1 and 2 use them. An event with an unknown
	// hash is listed without one, as Synapse does, because servers do not check them.
	ReferenceHashes map[string]string

	// OriginServerTS is when the event was created, in Unix milliseconds.
	OriginServerTS int64
}

// A SealedEvent is an event with its id, hashes and signatures. Any change would
// change its id.
type SealedEvent struct {
	// ID is the event's id.
	ID string

	// JSON is the event in canonical JSON, with its hashes and signatures. It does
	// not have the key unsigned, which differs between servers.
	JSON []byte

	// Event is the contents of the event. Its RoomID is always set.
	Event
}

// Seal computes the event's hash and id, and signs the event for the sender's
// server, which must be serverName. If key is nil the event is not signed, which
// is valid only in a room without remote members. Seal does not change e. Sealing an
// equal event again gives an equal result.
//
// Errors wrap [ErrRoomVersion], [ErrTooLarge], or [ErrJSON] for a content without a
// canonical form. Seal does not check whether the sender is allowed to send the
// event.
func (e Event) Seal(version RoomVersion, serverName string, key *SigningKey) (SealedEvent, error) {
	sealed, err := e.seal(version, serverName, key)
	if err != nil {
		return SealedEvent{}, fmt.Errorf("seal an event of type %.100q: %w", e.Type, err)
	}
	return sealed, nil
}

func (e Event) seal(version RoomVersion, serverName string, key *SigningKey) (SealedEvent, error) {
	if err := e.check(version, serverName); err != nil {
		return SealedEvent{}, err
	}
	// Parse the event as other servers will, independently of the Go types in its
	// content.
	fields := e.fields(version)
	raw, err := appendCanonical(nil, fields, 0)
	if err != nil {
		return SealedEvent{}, err
	}
	if version.HasReferenceHashes() {
		fields["event_id"] = chosenID(raw, serverName)
		if raw, err = appendCanonical(nil, fields, 0); err != nil {
			return SealedEvent{}, err
		}
	}
	event, err := parseEvent(version, raw)
	if err != nil {
		return SealedEvent{}, err
	}
	if e.Type == "m.room.create" && event.content()["room_version"] != string(version) {
		return SealedEvent{}, errors.New("its content has another room version")
	}
	hash, err := event.contentHash()
	if err != nil {
		return SealedEvent{}, err
	}
	event["hashes"] = map[string]any{"sha256": hash}
	signatures := map[string]any{}
	if key != nil {
		signature, err := event.sign(version, key)
		if err != nil {
			return SealedEvent{}, err
		}
		signatures[serverName] = map[string]any{key.ID(): signature}
	}
	event["signatures"] = signatures

	sealed := SealedEvent{Event: e}
	if sealed.ID, err = event.id(version); err != nil {
		return SealedEvent{}, err
	}
	if sealed.JSON, err = appendCanonical(nil, event, 0); err != nil {
		return SealedEvent{}, err
	}
	if len(sealed.JSON) > maxEvent {
		return SealedEvent{}, fmt.Errorf("%d bytes of JSON: %w", len(sealed.JSON), ErrTooLarge)
	}
	if e.RoomID == "" {
		sealed.RoomID = "!" + strings.TrimPrefix(sealed.ID, "$")
	}
	return sealed, nil
}

// chosenID returns the id of an event whose version lets its server choose one. It is
// made from the event's other fields, so that the same event gets the same id again.
// The longest server name has 236 bytes, and the id with it fits into 255.
func chosenID(fields []byte, serverName string) string {
	hash := sha256.Sum256(fields)
	return "$" + base64.RawURLEncoding.EncodeToString(hash[:12]) + ":" + serverName
}

// fields returns the event's keys and values without its id, hashes and signatures.
func (e Event) fields(version RoomVersion) map[string]any {
	fields := map[string]any{
		"auth_events":      e.references(version, e.AuthEvents),
		"content":          e.Content,
		"depth":            e.Depth,
		"origin_server_ts": e.OriginServerTS,
		"prev_events":      e.references(version, e.PrevEvents),
		"sender":           e.Sender,
		"type":             e.Type,
	}
	if e.RoomID != "" {
		fields["room_id"] = e.RoomID
	}
	if e.StateKey != nil {
		fields["state_key"] = *e.StateKey
	}
	return fields
}

// check returns an error if no homeserver would accept the event.
func (e Event) check(version RoomVersion, serverName string) error {
	if err := version.check(); err != nil {
		return err
	}
	identifiers := []string{e.Type, e.RoomID, e.Sender}
	if e.StateKey != nil {
		identifiers = append(identifiers, *e.StateKey)
	}
	for _, identifier := range identifiers {
		if len(identifier) > maxIdentifier {
			return fmt.Errorf("an identifier of %d bytes: %w", len(identifier), ErrTooLarge)
		}
	}
	if len(e.PrevEvents) > maxPrevEvents || len(e.AuthEvents) > maxAuthEvents {
		return fmt.Errorf("%d previous and %d auth events: %w", len(e.PrevEvents), len(e.AuthEvents), ErrTooLarge)
	}
	for _, id := range slices.Concat(e.PrevEvents, e.AuthEvents) {
		if !validEventID(id) {
			return errors.New("it has an invalid event id among its previous and auth events")
		}
	}
	switch server, _ := ServerOf(e.Sender); {
	case e.Type == "":
		return errors.New("it has no type")
	case e.Depth < 0:
		return errors.New("its depth is negative")
	case !ValidUserID(e.Sender):
		return errors.New("its sender is not a user id")
	case server != serverName:
		return errors.New("its sender belongs to another server")
	}
	if e.Type == "m.room.create" {
		return e.checkCreate(version)
	}
	switch {
	case !strings.HasPrefix(e.RoomID, "!"):
		return errors.New("it has no valid room id")
	case version.roomIsCreateEvent() && slices.Contains(e.AuthEvents, "$"+e.RoomID[1:]):
		return errors.New("its auth events include the create event, which the room id already names")
	}
	return nil
}

func (e Event) checkCreate(version RoomVersion) error {
	switch {
	case e.StateKey == nil || *e.StateKey != "":
		return errors.New("its state key is not empty")
	case len(e.PrevEvents) > 0 || len(e.AuthEvents) > 0:
		return errors.New("it is not the room's first event")
	case version.roomIsCreateEvent() && e.RoomID != "":
		return errors.New("it has a room id, but its own id becomes the room id")
	case !version.roomIsCreateEvent() && !strings.HasPrefix(e.RoomID, "!"):
		return errors.New("it has no valid room id")
	}
	return nil
}

// A StateKey names one piece of a room's state: a type and a state key.
type StateKey struct{ Type, Key string }

// AuthTypes lists the state that authorises the event, each piece once. The room's
// current state events of these become the event's AuthEvents. An m.room.create
// event has none. Since version 12 the create event is not listed.
func AuthTypes(version RoomVersion, e Event) []StateKey {
	if e.Type == "m.room.create" {
		return nil
	}
	var types []StateKey
	add := func(kind, key string) {
		if t := (StateKey{kind, key}); !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	if !version.roomIsCreateEvent() {
		add("m.room.create", "")
	}
	add("m.room.power_levels", "")
	add("m.room.member", e.Sender)
	if e.Type != "m.room.member" || e.StateKey == nil {
		return types
	}
	add("m.room.member", *e.StateKey)
	membership, _ := e.Content["membership"].(string)
	switch membership {
	case "join", "invite", "knock":
		add("m.room.join_rules", "")
	}
	if user, ok := e.Content["join_authorised_via_users_server"].(string); ok && membership == "join" && version.number() >= 8 {
		add("m.room.member", user)
	}
	if invite, ok := e.Content["third_party_invite"].(map[string]any); ok && membership == "invite" {
		signed, _ := invite["signed"].(map[string]any)
		if token, ok := signed["token"].(string); ok {
			add("m.room.third_party_invite", token)
		}
	}
	return types
}
