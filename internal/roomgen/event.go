package roomgen

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"lethe/internal/matrix"
)

// A member is a joined user.
type member struct {
	id    string
	local bool
	join  string // id of the user's join event
}

// A stateKey names a piece of a room's state.
type stateKey struct{ kind, key string }

// An event is an event, with other data for its rows.
type event struct {
	AuthEvents     []string
	Content        map[string]any
	Depth          int64
	OriginServerTS int64
	PrevEvents     []string
	RoomID         string
	Sender         string
	StateKey       *string
	Type           string

	id       string
	stream   int64
	received int64
	by       *member
	txn      string // the client's transaction id, if it is stored
}

// fields are an event as it is hashed and stored. Their order and that of the keys of
// maps is that of canonical JSON. A redaction, the hashes and the id each cover a part of
// them.
type fields struct {
	AuthEvents     []string                     `json:"auth_events"`
	Content        json.RawMessage              `json:"content"`
	Depth          int64                        `json:"depth"`
	Hashes         map[string]string            `json:"hashes,omitempty"`
	OriginServerTS int64                        `json:"origin_server_ts"`
	PrevEvents     []string                     `json:"prev_events"`
	RoomID         string                       `json:"room_id"`
	Sender         string                       `json:"sender"`
	Signatures     map[string]map[string]string `json:"signatures,omitempty"`
	StateKey       *string                      `json:"state_key,omitempty"`
	Type           string                       `json:"type"`
	Unsigned       map[string]int64             `json:"unsigned,omitzero"`
}

// seal sets the event's id, and returns its JSON for event_json. The hashes and the id
// are those of [matrix.ContentHash] and [matrix.EventID], because a homeserver refuses to
// read an event with another id. These parse the JSON, which takes longer. The signature
// is made up: a homeserver does not check it in its own database.
func (e *event) seal(server string) (string, error) {
	content, err := canonical(e.Content)
	if err != nil {
		return "", err
	}
	f := fields{
		AuthEvents: e.AuthEvents, Content: content, Depth: e.Depth, OriginServerTS: e.OriginServerTS, PrevEvents: e.PrevEvents,
		RoomID: e.RoomID, Sender: e.Sender, StateKey: e.StateKey, Type: e.Type,
	}
	whole, err := canonical(f)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(whole)
	f.Hashes = map[string]string{"sha256": base64.RawStdEncoding.EncodeToString(hash[:])}

	f.Content = matrix.AppendRedactedContent(nil, roomVersion, e.Type, content)
	redacted, err := canonical(f)
	if err != nil {
		return "", err
	}
	hash = sha256.Sum256(redacted)
	e.id = "$" + base64.RawURLEncoding.EncodeToString(hash[:])

	f.Content = content
	left, right := digest("signature", e.id, 0), digest("signature", e.id, 1)
	f.Signatures = map[string]map[string]string{
		server: {"ed25519:made_up": base64.RawStdEncoding.EncodeToString(append(left[:], right[:]...))},
	}
	f.Unsigned = map[string]int64{}
	if e.by.local {
		f.Unsigned["age_ts"] = e.OriginServerTS
	}
	stored, err := canonical(f)
	return string(stored), err
}

// canonical returns the canonical JSON of a value whose fields and keys are in its order.
func canonical(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // canonical JSON has no unnecessary escapes
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// metadata returns the event's internal metadata, as a homeserver stores it.
func (e *event) metadata() string {
	switch {
	case !e.by.local:
		return `{}`
	case e.txn != "":
		return `{"device_id":"` + device + `","txn_id":"` + e.txn + `"}`
	}
	return `{"device_id":"` + device + `"}`
}
