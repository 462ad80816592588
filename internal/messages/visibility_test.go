package messages

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// everybody makes a room that readers of every kind came to and went from.
func everybody(h *house, id, visibility string) *writtenRoom {
	r := h.newRoom(id, visibility)
	r.say(">1")
	for _, user := range []string{"@in:x", "@left:x", "@forgot:x", "@banned:x"} {
		r.member(user, "join")
	}
	r.member("@late:x", "invite")
	r.say(">2")
	r.member("@left:x", "leave")
	r.member("@forgot:x", "leave")
	h.requireExec(`UPDATE room_memberships SET forgotten = 1 WHERE user_id = '@forgot:x' AND room_id = $1`, r.id)
	r.member("@banned:x", "ban")
	r.member("@invited:x", "invite")
	r.member("@knocking:x", "knock")
	r.member("@late:x", "join")
	r.say(">3")
	return r
}

func TestWhoSeesWhat(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	all := map[string][]string{
		"@in:x":   {">1, leave", ">2, join", ">3, join"},
		"@late:x": {">1, leave", ">2, invite", ">3, join"},
		"@left:x": {">1, leave", ">2, join", ">3, leave"},
	}
	for visibility, want := range map[string]map[string][]string{
		"world_readable": {
			"@in:x": all["@in:x"], "@late:x": all["@late:x"], "@left:x": all["@left:x"],
			"@forgot:x":   {">1, leave", ">2, join", ">3, leave"},
			"@banned:x":   {">1, leave", ">2, join", ">3, ban"},
			"@invited:x":  {">1, leave", ">2, leave", ">3, invite"},
			"@knocking:x": {">1, leave", ">2, leave", ">3, knock"},
			"@never:x":    {">1, leave", ">2, leave", ">3, leave"},
		},
		"shared":  all,
		"":        all,
		"unheard": all,
		"invited": {
			"@in:x": {">2, join", ">3, join"}, "@late:x": {">2, invite", ">3, join"}, "@left:x": {">2, join"},
		},
		"joined": {
			"@in:x": {">2, join", ">3, join"}, "@late:x": {">3, join"}, "@left:x": {">2, join"},
		},
	} {
		r := everybody(h, "!"+visibility+":x", visibility)
		for _, user := range []string{
			"@in:x", "@late:x", "@left:x", "@forgot:x", "@banned:x", "@invited:x", "@knocking:x", "@never:x", "", "@IN:x",
		} {
			access, err := h.accessTo(r.id, user)
			if visibility == "world_readable" && want[user] == nil {
				require.NoError(t, err, user)
				require.True(t, access.peeker, user)
				continue
			}
			if want[user] == nil {
				require.ErrorIs(t, err, ErrForbidden, "%s %s", visibility, user)
				continue
			}
			require.NoError(t, err, "%s %s", visibility, user)
			member := user == "@in:x" || user == "@late:x" || user == "@left:x"
			require.Equal(t, !member, access.peeker, "%s %s", visibility, user)
			if user == "@left:x" {
				var stream int64
				require.NoError(t, h.conn.QueryRow(h.ctx, `SELECT stream_ordering FROM events WHERE event_id = $1`,
					r.state[matrix.StateKey{Type: "m.room.member", Key: user}]).Scan(&stream))
				left := r.events[stream-r.events[0].Stream]
				require.Equal(t, &matrix.Token{Topological: left.Topological, Stream: left.Stream}, access.left)
			} else {
				require.Nil(t, access.left)
			}
			require.Equal(t, want[user], messagesOnly(r.requireSeenBy(user)), "%s %s", visibility, user)
		}
	}
	for _, room := range []string{"!unknown:x", "", "!joined:x\x00", "\xff"} {
		_, err := h.accessTo(room, "@in:x")
		require.ErrorIs(t, err, ErrForbidden, "%q", room)
	}
	_, err := h.accessTo("!world_readable:x", "@in:x\x00")
	require.ErrorIs(t, err, ErrForbidden)
}

func TestAccessWhereTheBooksAreIncomplete(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := everybody(h, "!joined:x", "joined")
	refused := func(user string) {
		t.Helper()
		_, err := h.accessTo(r.id, user)
		require.ErrorIs(t, err, ErrForbidden)
	}
	// A leave that is gone says nothing about how far one may read.
	h.requireExec(`DELETE FROM events WHERE event_id = $1`, r.state[matrix.StateKey{Type: "m.room.member", Key: "@left:x"}])
	refused("@left:x")
	for _, event := range []string{
		`{"content":{"history_visibility":"WORLD_READABLE"}}`, `{"content":{"HISTORY_VISIBILITY":"world_readable"}}`,
		`{"content":{"history_visibility":["world_readable"]}}`, `{"history_visibility":"world_readable"}`,
		`{"content":{"history_visibility":"world_readable"}`, `[]`, ``, `null`,
	} {
		r.requireRewrite("m.room.history_visibility", "", event)
		refused("@never:x")
	}
	// That one does not undo the other.
	r.requireRewrite("m.room.history_visibility", "", `{"content":{"history_visibility":"world_readable"}}`)
	access, err := h.accessTo(r.id, "@left:x")
	require.NoError(t, err)
	require.True(t, access.peeker)
	h.requireExec(`DELETE FROM current_state_events WHERE room_id = $1`, r.id) // the server has left
	refused("@never:x")
	access, err = h.accessTo(r.id, "@in:x")
	require.NoError(t, err)
	require.False(t, access.peeker)
}

// Somebody who was in the room for a while sees its own coming and going.
func TestMembersSeeTheirStay(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!stay:x", "joined")
	r.events = nil
	r.say(">before")
	r.member("@guest:x", "join")
	r.say(">during")
	r.member("@guest:x", "leave")
	r.say(">after")
	require.Equal(t, []string{"@guest:x join, join", ">during, join", "@guest:x leave, leave"}, r.requireSeenBy("@guest:x"))
	require.Equal(t, []string{">before, join", "@guest:x join, join", ">during, join", "@guest:x leave, join", ">after, join"},
		r.requireSeenBy("@owner:x"))
}

func TestChangesOfHistoryVisibility(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!changing:x", "joined")
	for i, visibility := range []string{"shared", "invited", "joined", "world_readable"} {
		r.say(">" + strconv.Itoa(i))
		r.set("m.room.history_visibility", "", `{"history_visibility":"`+visibility+`"}`)
	}
	r.say(">4")
	r.member("@late:x", "join")
	h.requireExec(`INSERT INTO redactions (event_id, redacts, recheck) SELECT '$r' || event_id, event_id, false FROM events`)

	const change = "m.room.history_visibility, leave"
	// The first replaces nothing, which counts as shared; the third and fourth are
	// of invited to joined, and of joined to world_readable.
	require.Equal(t, []string{
		"m.room.create, leave", "@owner:x join, leave", "m.room.join_rules, leave",
		change, change, ">1, leave", change, change, ">4, leave", "@late:x join, join",
	}, r.requireSeenBy("@late:x"))
	require.Equal(t, []string{change, ">4, leave", "@late:x join, leave"}, r.requireSeenBy("@never:x"))

	// What is redacted still says who may see what.
	for i := range r.events {
		r.events[i].RedactedBy = new(string)
	}
	require.Equal(t, []string{change, ">4, leave", "@late:x join, leave"}, r.requireSeenBy("@never:x"))
}

func TestPreviousContentThatAServerOnceNoted(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!noted:x", "joined")
	r.member("@reader:x", "join")
	r.member("@reader:x", "leave")
	r.set("m.room.history_visibility", "", `{"history_visibility":"invited"}`)
	change := r.last()
	r.events = r.events[len(r.events)-1:]
	sees := func(unsigned string) bool {
		t.Helper()
		change.JSON = json.RawMessage(`{"content":{"history_visibility":"invited"},"unsigned":` + unsigned + `}`)
		return len(r.requireSeenBy("@reader:x")) == 1
	}
	replaced := r.state[matrix.StateKey{Type: "m.room.create"}]
	require.True(t, sees(`{"prev_content":{"history_visibility":"shared"}}`))
	require.True(t, sees(`{"prev_content":{"history_visibility":"?"}}`))
	require.True(t, sees(`{}`), "nothing counts as shared")
	require.False(t, sees(`{"prev_content":{"history_visibility":"joined"}}`))
	require.False(t, sees(`{"prev_content":{"history_visibility":"joined"},"replaces_state":"$gone"}`))
	require.False(t, sees(`{"prev_content":{"history_visibility":"joined"},"replaces_state":"\u0000\ud800"}`))
	require.False(t, sees(`{"prev_content":{"history_visibility":"joined"},"replaces_state":["`+replaced+`"]}`))
	require.True(t, sees(`{"prev_content":{"history_visibility":"joined"},"replaces_state":"`+replaced+`"}`), "it has no visibility")
	r.requireRewrite("m.room.create", "", `{"content":{"history_visibility":"joined"}}`)
	require.False(t, sees(`{"prev_content":{"history_visibility":"shared"},"replaces_state":"`+replaced+`"}`))
	r.requireRewrite("m.room.create", "", `{"content":`)
	require.False(t, sees(`{"prev_content":{"history_visibility":"shared"},"replaces_state":"`+replaced+`"}`))
	change.RedactedBy = new(string)
	require.True(t, sees(`{"prev_content":{"history_visibility":"joined"}}`), "a redaction leaves nothing of it")
}

func TestInvitationsFromOutside(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!outside:x", "world_readable")
	r.outside("@invited:x", "invite")
	r.outside("@invited:x", "leave")
	r.outside("@other:x", "invite")
	r.events = r.events[len(r.events)-3:]
	require.Equal(t, []string{"@invited:x invite, invite", "@invited:x leave, leave"}, r.requireSeenBy("@invited:x"))
	require.Empty(t, r.requireSeenBy("@owner:x"))
	access, err := h.accessTo(r.id, "@invited:x")
	require.NoError(t, err)
	require.Equal(t, access.left, &matrix.Token{Topological: r.events[1].Topological, Stream: r.events[1].Stream})
}

func TestIgnoredAndErasedSenders(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!senders:x", "shared")
	r.events = nil
	r.say(">1")
	r.member("@in:x", "join")
	r.say(">2")
	r.requireWrite("m.room.message", "@in:x", nil, `{"body":">3"}`)
	r.set("m.room.topic", "", `{}`)
	r.member("@left:x", "join")
	r.member("@left:x", "leave")
	h.requireExec(`INSERT INTO ignored_users VALUES ('@in:x', '@owner:x'), ('@other:x', '@in:x'), ('@owner:x', '@left:x')`)

	require.Equal(t, []string{"@in:x join, join", ">3, join", "m.room.topic, join", "@left:x join, join", "@left:x leave, join"},
		r.requireSeenBy("@in:x"))
	require.Equal(t, []string{">1, leave", "@in:x join, leave", ">2, leave", ">3, leave", "m.room.topic, leave", "@left:x join, join", "@left:x leave, leave"},
		r.requireSeenBy("@left:x"))

	h.requireExec(`INSERT INTO erased_users VALUES ('@owner:x'), ('@left:x'), ('@nobody:x')`)
	require.Equal(t, []string{
		">1, leave, erased", "@in:x join, leave", ">2, leave, erased", ">3, leave", "m.room.topic, leave, erased",
		"@left:x join, join", "@left:x leave, leave, erased",
	}, r.requireSeenBy("@left:x"))
	require.Equal(t, []string{"@in:x join, join", ">3, join", "m.room.topic, join", "@left:x join, join", "@left:x leave, join"},
		r.requireSeenBy("@in:x"), "who was there has seen it")
}

func TestSoftFailedEvents(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!soft:x", "shared")
	r.events = nil
	for _, metadata := range []string{`{}`, `{"soft_failed":true}`, `{"soft_failed":true,"policy_server_spammy":true}`} {
		r.say(">" + strconv.Itoa(len(r.events)))
		r.last().InternalMetadata = json.RawMessage(metadata)
	}
	seen := func(admin bool) []string {
		t.Helper()
		return requireNames(t, h.requireVisible(r.id, Reader{UserID: "@owner:x", Admin: admin}, access{}, r.events))
	}
	require.Equal(t, []string{">0, join"}, seen(true))
	for config, want := range map[string][]string{
		`{"return_soft_failed_events":true}`:                                            {">0, join", ">1, join", ">2, join"},
		`{"return_soft_failed_events":false,"return_policy_server_spammy_events":true}`: {">0, join", ">2, join"},
		`nonsense soft_failed`:                                                          {">0, join"},
	} {
		h.requireExec(`INSERT INTO account_data (user_id, account_data_type, stream_id, content)
			VALUES ('@owner:x', 'io.element.synapse.admin_client_config', 1, $1)
			ON CONFLICT (user_id, account_data_type) DO UPDATE SET content = $1`, config)
		require.Equal(t, want, seen(true))
		require.Equal(t, []string{">0, join"}, seen(false), "no admin")
	}
}

func TestCallsInPublicRooms(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!calls:x", "shared")
	r.events = nil
	ring := func(n int) { r.requireWrite("m.call.invite", "@owner:x", nil, `{"body":">`+strconv.Itoa(n)+`"}`) }
	ring(1)
	r.set("m.room.join_rules", "", `{"join_rule":"invite"}`)
	ring(2)
	r.set("m.room.join_rules", "", `{"join_rule":"public"}`)
	ring(3)
	r.requireWrite("m.call.invite", "@owner:x", new(string), `{}`)
	require.Equal(t, []string{"m.room.join_rules, join", ">2, join", "m.room.join_rules, join", "m.call.invite, join"}, r.requireSeenBy("@owner:x"))
}

// Where the database has lost what says who may see an event, nobody does who
// would not see it in the strictest room.
func TestLostStateHides(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	for name, c := range map[string]struct {
		lose           func(r *writtenRoom)
		in, left, peek []string
	}{
		"nothing": {func(*writtenRoom) {}, []string{">1", ">2", ">3"}, []string{">1", ">2", ">3"}, []string{">1", ">2", ">3"}},
		"the visibility's event": {func(r *writtenRoom) {
			r.requireExec(`DELETE FROM event_json WHERE event_id = $1`, r.state[matrix.StateKey{Type: "m.room.history_visibility"}])
		}, []string{">2", ">3"}, []string{">2"}, nil},
		"the visibility's JSON": {func(r *writtenRoom) {
			r.requireRewrite("m.room.history_visibility", "", `{"content":{"history_visibility":"world_readable"}`)
		}, []string{">2", ">3"}, []string{">2"}, nil},
		"a visibility that was rejected": {func(r *writtenRoom) {
			r.requireExec(`INSERT INTO rejections VALUES ($1, '', '')`, r.state[matrix.StateKey{Type: "m.room.history_visibility"}])
		}, []string{">2", ">3"}, []string{">2"}, nil},
		"a visibility of another room": {func(r *writtenRoom) {
			r.requireExec(`UPDATE events SET room_id = '!other:x' WHERE event_id = $1`, r.state[matrix.StateKey{Type: "m.room.history_visibility"}])
		}, []string{">2", ">3"}, []string{">2"}, nil},
		"the visibility and a membership": {func(r *writtenRoom) {
			r.requireRewrite("m.room.history_visibility", "", `[]`)
			r.requireExec(`UPDATE events SET rejection_reason = 'auth' WHERE event_id = $1`, r.state[matrix.StateKey{Type: "m.room.member", Key: "@in:x"}])
		}, nil, []string{">2"}, nil},
		"the whole state": {func(r *writtenRoom) {
			r.requireExec(`DELETE FROM state_groups_state WHERE room_id = $1`, r.id)
		}, nil, nil, nil},
		"what the states are differences to": {func(r *writtenRoom) {
			r.requireExec(`DELETE FROM state_group_edges e USING state_groups g WHERE g.id = e.state_group AND g.room_id = $1`, r.id)
		}, nil, nil, nil},
		"the create event's row": {func(r *writtenRoom) {
			r.requireExec(`DELETE FROM state_groups_state WHERE room_id = $1 AND type = 'm.room.create'`, r.id)
		}, []string{">1", ">2", ">3"}, []string{">1", ">2", ">3"}, []string{">1", ">2", ">3"}},
		"the create event's row and the visibility's": {func(r *writtenRoom) {
			r.requireExec(`DELETE FROM state_groups_state WHERE room_id = $1 AND type IN ('m.room.create', 'm.room.history_visibility')`, r.id)
		}, nil, nil, nil},
		"which state it was": {func(r *writtenRoom) {
			for i := range r.events {
				r.events[i].StateGroup = nil
			}
		}, nil, nil, nil},
	} {
		r := everybody(h, "!"+name+":x", "world_readable")
		c.lose(r)
		for user, want := range map[string][]string{"@in:x": c.in, "@left:x": c.left, "@never:x": c.peek} {
			seen := []string{}
			visible := h.requireVisible(r.id, Reader{UserID: user}, access{peeker: user == "@never:x"}, r.events)
			for _, message := range messagesOnly(requireNames(t, visible)) {
				seen = append(seen, message[:2])
			}
			require.ElementsMatch(t, want, seen, "without %s: %s", name, user)
		}
	}
}

// A reader's own member event is its own business, whatever else is lost.
func TestOwnMemberEventWithoutState(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := everybody(h, "!joined:x", "joined")
	for i := range r.events {
		r.events[i].StateGroup = nil
	}
	require.Equal(t, []string{"@left:x join, join", "@left:x leave, leave"}, r.requireSeenBy("@left:x"))
}

func TestWithoutRetentionNothingIsTooOld(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!old:x", "shared")
	r.set("m.room.retention", "", `{"max_lifetime":1}`)
	h.requireExec(`INSERT INTO room_retention VALUES ($1, $2, NULL, 1)`, r.id, r.last().ID)
	r.say(">old")
	r.last().OriginTS = -1
	require.Equal(t, []string{">old, join"}, messagesOnly(r.requireSeenBy("@owner:x")))
}

func TestNothingIsVisibleOfNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	require.Empty(t, h.requireVisible("!none:x", Reader{UserID: "@a:x"}, access{}, nil))
	// All that there is may be outside.
	require.Empty(t, h.requireVisible("!none:x", Reader{UserID: "@a:x"}, access{}, []timeline.Event{{ID: "$e", Type: "t", Outlier: true}}))
}
