package roomgen

import (
	"encoding/base64"
	"encoding/json"
)

// A member is a user who is in the room.
type member struct {
	id    string
	local bool
	join  string // the event that let the user in
}

// A stateKey names a piece of a room's state.
type stateKey struct{ kind, key string }

// An event is one as it is sent, and what its rows need beside.
type event struct {
	AuthEvents     []string                     `json:"auth_events"`
	Content        map[string]any               `json:"content"`
	Depth          int64                        `json:"depth"`
	Hashes         map[string]string            `json:"hashes"`
	OriginServerTS int64                        `json:"origin_server_ts"`
	PrevEvents     []string                     `json:"prev_events"`
	Redacts        string                       `json:"redacts,omitempty"`
	RoomID         string                       `json:"room_id"`
	Sender         string                       `json:"sender"`
	Signatures     map[string]map[string]string `json:"signatures"`
	StateKey       *string                      `json:"state_key,omitempty"`
	Type           string                       `json:"type"`
	Unsigned       map[string]any               `json:"unsigned"`

	id       string
	stream   int64
	received int64
	by       *member
	txn      string // what the client called it, if that is remembered
}

// encode writes the event as event_json has it, with what merely looks like a
// hash and a signature.
func (e *event) encode(server string) (string, error) {
	hash, left, right := digest("hash", e.id), digest("signature", e.id, 0), digest("signature", e.id, 1)
	e.Hashes = map[string]string{"sha256": base64.RawStdEncoding.EncodeToString(hash[:])}
	e.Signatures = map[string]map[string]string{
		server: {"ed25519:made_up": base64.RawStdEncoding.EncodeToString(append(left[:], right[:]...))},
	}
	encoded, err := json.Marshal(e)
	return string(encoded), err
}

// metadata is what a homeserver remembers of an event beside the event.
func (e *event) metadata() string {
	switch {
	case !e.by.local:
		return `{}`
	case e.txn != "":
		return `{"device_id":"` + device + `","txn_id":"` + e.txn + `"}`
	}
	return `{"device_id":"` + device + `"}`
}
