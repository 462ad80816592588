package matrix

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// HasReferenceHashes reports whether an event lists the hashes of its previous and
// auth events, and has an id that its server has chosen. Since version 3 the ids are
// these hashes.
func (v RoomVersion) HasReferenceHashes() bool { return v.number() < 3 }

// ReferenceHash returns the hash of the redacted event from the event's JSON. Events
// that refer to it list this hash in the versions 1 and 2.
func ReferenceHash(version RoomVersion, raw []byte) (string, error) {
	event, err := parseEvent(version, raw)
	if err != nil {
		return "", fmt.Errorf("reference hash: %w", err)
	}
	hash, err := event.referenceHash(version)
	if err != nil {
		return "", fmt.Errorf("reference hash: %w", err)
	}
	return base64.RawStdEncoding.EncodeToString(hash), nil
}

// References parses the JSON of an event's prev_events or auth_events. It returns the
// ids in order and, for versions with [RoomVersion.HasReferenceHashes], the known
// hashes by id.
func References(version RoomVersion, raw []byte) (ids []string, hashes map[string]string, err error) {
	hashes = map[string]string{}
	if !version.HasReferenceHashes() {
		if err := json.Unmarshal(raw, &ids); err != nil {
			return nil, nil, fmt.Errorf("parse references to events: %w", err)
		}
		return ids, hashes, nil
	}
	var pairs [][]json.RawMessage
	if err := json.Unmarshal(raw, &pairs); err != nil {
		return nil, nil, fmt.Errorf("parse references to events: %w", err)
	}
	for _, pair := range pairs {
		var id string
		var known struct {
			SHA256 string `json:"sha256"`
		}
		if len(pair) != 2 || json.Unmarshal(pair[0], &id) != nil || json.Unmarshal(pair[1], &known) != nil {
			return nil, nil, errors.New("parse references to events: need pairs of an id and hashes")
		}
		ids = append(ids, id)
		if known.SHA256 != "" {
			hashes[id] = known.SHA256
		}
	}
	return ids, hashes, nil
}

// references returns the value that lists the events with these ids.
func (e Event) references(version RoomVersion, ids []string) any {
	if !version.HasReferenceHashes() {
		return ids
	}
	pairs := make([]any, len(ids))
	for i, id := range ids {
		hashes := map[string]any{}
		if hash := e.ReferenceHashes[id]; hash != "" {
			hashes["sha256"] = hash
		}
		pairs[i] = []any{id, hashes}
	}
	return pairs
}
