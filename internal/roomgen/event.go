package roomgen

import (
	"encoding/base64"
	"encoding/json"
)

// A member is a joined user.
type member struct {
	id    string
	local bool
	join  string // id of the user's join event
}

// A stateKey names a piece of a room's state.
type stateKey struct{ kind, key string }

// An event is an event as it is sent, with other data for its rows.
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
	txn      string // the client's transaction id, if it is stored
}

// encode returns the event's JSON for event_json, with a fake hash and a fake
// signature.
func (e *event) encode(server string) (string, error) {
	hash, left, right := digest("hash", e.id), digest("signature", e.id, 0), digest("signature", e.id, 1)
	e.Hashes = map[string]string{"sha256": base64.RawStdEncoding.EncodeToString(hash[:])}
	e.Signatures = map[string]map[string]string{
		server: {"ed25519:made_up": base64.RawStdEncoding.EncodeToString(append(left[:], right[:]...))},
	}
	encoded, err := json.Marshal(e)
	return string(encoded), err
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
