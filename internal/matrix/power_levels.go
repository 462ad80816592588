package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// CreatorPower is the power of a room's creators since version 12: more than any
// level can be.
const CreatorPower = math.MaxInt64

// stringLevel is how a level may be spelled as a string, between spaces.
var stringLevel = regexp.MustCompile(`^[+-]?[0-9]+$`)

// PowerLevels say who may do what in a room. They come from
// [ParsePowerLevels].
type PowerLevels struct {
	creators      map[string]bool // whose power has no bounds
	users, events map[string]int64
	usersDefault  int64
	eventsDefault int64
	stateDefault  int64
}

// ParsePowerLevels reads the content of a room's m.room.power_levels event. A nil
// content is that of a room without one.
//
// Creators are the room's creators: the sender of its m.room.create event and,
// since version 12, that event's additional_creators. Since then their power is
// [CreatorPower] whatever the content says. Before, they have 100 in a room
// without content, and else what it gives them.
//
// A level that is no integer, or in version 9 no string of one, gives an error.
// Only users, events and the three defaults are read.
func ParsePowerLevels(version RoomVersion, content []byte, creators []string) (PowerLevels, error) {
	levels, err := parsePowerLevels(version, content, creators)
	if err != nil {
		return PowerLevels{}, fmt.Errorf("power levels: %w", err)
	}
	return levels, nil
}

func parsePowerLevels(version RoomVersion, content []byte, creators []string) (PowerLevels, error) {
	p := PowerLevels{stateDefault: 50, creators: map[string]bool{}, users: map[string]int64{}}
	if err := version.check(); err != nil {
		return p, err
	}
	for _, creator := range creators {
		switch {
		case version.roomIsCreateEvent():
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

// User returns the power of a user.
func (p PowerLevels) User(userID string) int64 {
	if p.creators[userID] {
		return CreatorPower
	}
	if level, ok := p.users[userID]; ok {
		return level
	}
	return p.usersDefault
}

// Send returns the power that it takes to send an event of that type, as a state
// event or not.
func (p PowerLevels) Send(eventType string, state bool) int64 {
	if level, ok := p.events[eventType]; ok {
		return level
	}
	if state {
		return p.stateDefault
	}
	return p.eventsDefault
}

// levelsOf returns the levels of the object under the key; none if it is not
// there.
func levelsOf(version RoomVersion, object map[string]any, key string) (map[string]int64, error) {
	value, ok := object[key]
	if !ok {
		return nil, nil
	}
	values, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: no object", key)
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

func levelOf(version RoomVersion, value any) (int64, error) {
	var text string
	switch value := value.(type) {
	case json.Number:
		text = value.String()
	case string:
		text = strings.TrimSpace(value)
		if !version.stringLevels() || !stringLevel.MatchString(text) {
			return 0, errors.New("a level that is no integer")
		}
	default:
		return 0, errors.New("a level that is no integer")
	}
	level, err := strconv.ParseInt(text, 10, 64)
	if err != nil || level < -maxInteger || level > maxInteger {
		return 0, errors.New("a level that is no integer within ±(2^53-1)")
	}
	return level, nil
}
