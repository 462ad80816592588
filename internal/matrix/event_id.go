package matrix

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
)

// ErrSignature is returned if an event has no valid signature of the server and key.
var ErrSignature = errors.New("no valid signature")

// A parsedEvent is the JSON object of an event. Its type is a string and its content
// an object. Other keys are not checked.
type parsedEvent map[string]any

func parseEvent(version RoomVersion, raw []byte) (parsedEvent, error) {
	if err := version.check(); err != nil {
		return nil, err
	}
	event, err := parseFields(version, raw)
	if err != nil {
		return nil, err
	}
	if _, ok := event["type"].(string); !ok {
		return nil, errors.New("the event has no type")
	}
	if _, ok := event["content"].(map[string]any); !ok {
		return nil, errors.New("the event has no content")
	}
	return event, nil
}

// parseFields parses the JSON object of an event and checks no key. If the version
// allows any numbers, they are in the form in which they are hashed.
func parseFields(version RoomVersion, raw []byte) (parsedEvent, error) {
	object, err := parseObject(raw)
	if err == nil && version.anyNumbers() {
		err = formatNumbers(object)
	}
	return object, err
}

func (e parsedEvent) kind() string            { return e["type"].(string) }
func (e parsedEvent) content() map[string]any { return e["content"].(map[string]any) }

// EventID returns the id of any event from its JSON. Since version 3 it is $ and the
// hash of the redacted event, so a redaction does not change the id. Before, it is the
// event's event_id.
func EventID(version RoomVersion, raw []byte) (string, error) {
	event, err := parseEvent(version, raw)
	if err != nil {
		return "", fmt.Errorf("event id: %w", err)
	}
	id, err := event.id(version)
	if err != nil {
		return "", fmt.Errorf("event id: %w", err)
	}
	return id, nil
}

// ContentHash returns the hash of any event from its JSON, as in its hashes.sha256.
// It covers the whole event, so a redacted event no longer matches its hash.
func ContentHash(version RoomVersion, raw []byte) (string, error) {
	event, err := parseFields(version, raw)
	if err != nil {
		return "", fmt.Errorf("content hash: %w", err)
	}
	hash, err := event.contentHash()
	if err != nil {
		return "", fmt.Errorf("content hash: %w", err)
	}
	return hash, nil
}

// VerifySignature returns nil if the event has a valid signature of the server and
// key. The error wraps [ErrSignature], or says why the text is not an event. A
// redacted event keeps its signatures.
func VerifySignature(version RoomVersion, raw []byte, serverName, keyID string, public ed25519.PublicKey) error {
	event, err := parseEvent(version, raw)
	if err != nil {
		return fmt.Errorf("verify a signature: %w", err)
	}
	signed, err := event.signedBytes(version)
	if err != nil {
		return fmt.Errorf("verify a signature: %w", err)
	}
	signatures, _ := event["signatures"].(map[string]any)
	ofServer, _ := signatures[serverName].(map[string]any)
	text, _ := ofServer[keyID].(string)
	signature, err := decodeBase64(text)
	// Verify panics if the key has another length.
	if err != nil || len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, signed, signature) {
		return fmt.Errorf("verify the signature of %.255q with %.255q: %w", serverName, keyID, ErrSignature)
	}
	return nil
}

func (e parsedEvent) id(version RoomVersion) (string, error) {
	if version.HasReferenceHashes() {
		id, _ := e["event_id"].(string)
		if !validEventID(id) {
			return "", errors.New("the event has no valid event_id")
		}
		return id, nil
	}
	hash, err := e.referenceHash(version)
	if err != nil {
		return "", err
	}
	encoding := base64.RawURLEncoding
	if version == "3" {
		encoding = base64.RawStdEncoding
	}
	return "$" + encoding.EncodeToString(hash), nil
}

// validEventID reports whether a text may be the id of an event of some room version.
func validEventID(id string) bool { return strings.HasPrefix(id, "$") && len(id) <= maxIdentifier }

func (e parsedEvent) referenceHash(version RoomVersion) ([]byte, error) {
	covered, err := e.signedBytes(version)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(covered)
	return hash[:], nil
}

func (e parsedEvent) sign(version RoomVersion, key *SigningKey) (string, error) {
	covered, err := e.signedBytes(version)
	if err != nil {
		return "", err
	}
	return base64.RawStdEncoding.EncodeToString(key.sign(covered)), nil
}

// signedBytes returns the bytes that the event's signatures and reference hash cover.
func (e parsedEvent) signedBytes(version RoomVersion) ([]byte, error) {
	return appendCanonical(nil, e.redacted(version).without("signatures"), 0)
}

func (e parsedEvent) contentHash() (string, error) {
	covered, err := appendCanonical(nil, e.without("unsigned", "signatures", "hashes"), 0)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(covered)
	return base64.RawStdEncoding.EncodeToString(hash[:]), nil
}

// without returns a copy of the object without the keys.
func (e parsedEvent) without(keys ...string) map[string]any {
	left := maps.Clone(map[string]any(e))
	for _, key := range keys {
		delete(left, key)
	}
	return left
}
