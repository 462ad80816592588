package messages

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/retention"
)

func TestRetentionHidesOldMessagesButNoState(t *testing.T) {
	t.Parallel()
	hour, year := int64(3600_000), int64(365*86400_000)
	for name, c := range map[string]struct {
		room, server *int64
		want         []string
	}{
		"no policy":         {nil, nil, []string{">old, join", ">aged, join", ">new, join"}},
		"the room's":        {&hour, nil, []string{">new, join"}},
		"the server's":      {nil, &hour, []string{">new, join"}},
		"the room's first":  {&year, &hour, []string{">aged, join", ">new, join"}},
		"the room's, again": {&hour, &year, []string{">new, join"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, Options{Retention: retention.Config{
				Enabled: true, DefaultPolicy: retention.Policy{MaxLifetime: c.server},
			}})
			r := h.newRoom("!retained:x", "joined")
			r.events = nil
			r.set("m.room.topic", "", `{}`)
			for text, age := range map[string]int64{">old": 2 * year, ">aged": 2 * hour, ">new": 0} {
				r.say(text)
				r.last().OriginTS = now().UnixMilli() - age
			}
			r.set("m.room.retention", "", `{}`)
			if c.room != nil {
				h.requireExec(`INSERT INTO room_retention (room_id, event_id, max_lifetime) VALUES ($1, $2, $3)`, r.id, r.last().ID, *c.room)
			}
			seen := r.requireSeenBy("@owner:x")
			require.ElementsMatch(t, c.want, messagesOnly(seen))
			require.Subset(t, seen, []string{"m.room.topic, join", "m.room.retention, join"}, "whose time is 1970")
		})
	}
}

// A policy counts as it is now (R5), and no event with a state key is one (R4).
func TestRetentionHidesByTheCurrentPolicy(t *testing.T) {
	t.Parallel()
	for enabled, hidden := range map[bool]string{true: ">new, join", false: ">old, join"} {
		h := newHouse(t, Options{Retention: retention.Config{Enabled: enabled}})
		r := h.newRoom("!retained:x", "joined")
		for text, age := range map[string]int64{">old": 2 * 3600_000, ">new": 0} {
			r.say(text)
			r.last().OriginTS = now().UnixMilli() - age
		}
		policy := func(key string, lifetime *int64) {
			r.set("m.room.retention", key, `{}`)
			if lifetime != nil {
				h.requireExec(`INSERT INTO room_retention (room_id, event_id, max_lifetime) VALUES ($1, $2, $3)`, r.id, r.last().ID, *lifetime)
			}
		}
		seen := func() []string { return messagesOnly(r.requireSeenBy("@owner:x")) }
		both := []string{">old, join", ">new, join"}
		hour := int64(3600_000)
		policy("@owner:x", &hour)
		require.ElementsMatch(t, both, seen())
		policy("", &hour)
		require.Contains(t, seen(), hidden)
		require.Equal(t, !enabled, len(seen()) == 2, "at once, and only where retention is enabled")
		policy("", nil)
		require.ElementsMatch(t, both, seen(), "the row of the policy before is still there")
	}
}
