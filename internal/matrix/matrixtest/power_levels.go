package matrixtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"lethe/internal/matrix"
)

// maxLevel is the maximum absolute value of a level.
const maxLevel = 1<<53 - 1

// CreatorPower is the power of a room's creators since version 12. It is greater than
// any level.
const CreatorPower = math.MaxInt64

// stringLevel matches a level as a string, without the spaces around it.
var stringLevel = regexp.MustCompile(`^[+-]?[0-9]+$`)

// PowerLevels are the power of each user in a room, and the power that events need.
// [ParsePowerLevels] returns them.
type PowerLevels struct {
	creators      map[string]bool // users with unlimited power
	users, events map[string]int64
	usersDefault  int64
	eventsDefault int64
	stateDefault  int64
}

// ParsePowerLevels parses the content of a room's m.room.power_levels event. A room
// without this event has a nil content.
//
// Creators are the sender of the room's m.room.create event and, since version 12,
// that event's additional_creators. Since version 12 their power is always
// [CreatorPower]. Before, it is 100 without content, and otherwise the content sets
// it.
//
// A level must be an integer; before version 10 it may be a string. ParsePowerLevels reads
// only users, events and the three defaults.
func ParsePowerLevels(version matrix.RoomVersion, content []byte, creators []string) (PowerLevels, error) {
	levels, err := parsePowerLevels(version, content, creators)
	if err != nil {
		return PowerLevels{}, fmt.Errorf("power levels: %w", err)
	}
	return levels, nil
}

func parsePowerLevels(version matrix.RoomVersion, content []byte, creators []string) (PowerLevels, error) {
	p := PowerLevels{stateDefault: 50, creators: map[string]bool{}, users: map[string]int64{}}
	if !version.Supported() {
		return p, fmt.Errorf("room version %.20q: %w", string(version), matrix.ErrRoomVersion)
	}
	for _, creator := range creators {
		switch {
		case version == "12":
			p.creators[creator] = true
		case content == nil:
			p.users[creator] = 100
		}
	}
	if content == nil {
		return p, nil
	}
	object, err := parseObject(content)
	if err != nil {
		return p, err
	}
	if p.users, err = levelsOf(version, object, "users"); err != nil {
		return p, err
	}
	if p.events, err = levelsOf(version, object, "events"); err != nil {
		return p, err
	}
	for key, level := range map[string]*int64{
		"users_default": &p.usersDefault, "events_default": &p.eventsDefault, "state_default": &p.stateDefault,
	} {
		value, ok := object[key]
		if !ok {
			continue
		}
		if *level, err = levelOf(version, value); err != nil {
			return p, fmt.Errorf("%s: %w", key, err)
		}
	}
	return p, nil
}

// parseObject parses a JSON object, with numbers as [json.Number].
func parseObject(raw []byte) (map[string]any, error) {
	// This also refuses duplicate keys.
	if _, err := matrix.CanonicalJSON(raw); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return nil, err
	}
	if object == nil {
		return nil, errors.New("not an object")
	}
	return object, nil
}

// User returns a user's power.
func (p PowerLevels) User(userID string) int64 {
	if p.creators[userID] {
		return CreatorPower
	}
	if level, ok := p.users[userID]; ok {
		return level
	}
	return p.usersDefault
}

// Send returns the power needed to send an event of the type, as a state event or
// not.
func (p PowerLevels) Send(eventType string, state bool) int64 {
	if level, ok := p.events[eventType]; ok {
		return level
	}
	if state {
		return p.stateDefault
	}
	return p.eventsDefault
}

// levelsOf returns the levels in the object's value of the key, or nil if the key is
// missing.
func levelsOf(version matrix.RoomVersion, object map[string]any, key string) (map[string]int64, error) {
	value, ok := object[key]
	if !ok {
		return nil, nil
	}
	values, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: not an object", key)
	}
	levels := make(map[string]int64, len(values))
	for name, value := range values {
		level, err := levelOf(version, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %.255q: %w", key, name, err)
		}
		levels[name] = level
	}
	return levels, nil
}

// strictLevels reports whether the version refuses a level that is a string.
func strictLevels(version matrix.RoomVersion) bool {
	return version == "10" || version == "11" || version == "12"
}

func levelOf(version matrix.RoomVersion, value any) (int64, error) {
	var text string
	switch value := value.(type) {
	case json.Number:
		text = value.String()
	case string:
		text = strings.TrimSpace(value)
		if strictLevels(version) || !stringLevel.MatchString(text) {
			return 0, errors.New("a level that is not an integer")
		}
	default:
		return 0, errors.New("a level that is not an integer")
	}
	level, err := strconv.ParseInt(text, 10, 64)
	if err != nil || level < -maxLevel || level > maxLevel {
		return 0, errors.New("a level that is not an integer within ±(2^53-1)")
	}
	return level, nil
}
