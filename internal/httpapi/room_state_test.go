package httpapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// aRoom is a room that its statistics, its state and its members agree on, and
// one of which nothing is known but its id.
const aRoom = `
	INSERT INTO rooms (room_id, is_public, creator, room_version) VALUES
		('!room:x', true, '@admin:x', '10'), ('!bare:x', NULL, NULL, NULL), ('', NULL, NULL, NULL), ('!a/b%2F:x', NULL, NULL, '1');
	INSERT INTO room_stats_state (room_id, name, topic, avatar, is_federatable) VALUES ('!room:x', 'a <room>', 'what it is of', 'mxc://x/y', true);
	INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members,
		banned_members, local_users_in_room, completed_delta_stream_id) VALUES ('!room:x', 9, 3, 0, 1, 0, 2, 1);
	INSERT INTO current_state_events (event_id, room_id, type, state_key, membership) VALUES
		('$m1', '!room:x', 'm.room.member', '@user:x', 'join'), ('$m2', '!room:x', 'm.room.member', '@admin:x', 'join'),
		('$m3', '!room:x', 'm.room.member', '@far:y', 'join'), ('$m4', '!room:x', 'm.room.member', '@gone:x', 'leave'),
		('$m5', '!room:x', 'm.room.member', '@guest:x', 'invite'), ('$m6', '!other:x', 'm.room.member', '@locked:x', 'join'),
		('$m7', '!room:x', 'not.a.member', '@old:x', 'join');
	INSERT INTO devices (user_id, device_id, hidden) VALUES
		('@user:x', 'A', false), ('@user:x', 'B', false), ('@user:x', 'K', true), ('@admin:x', 'A', false),
		('@gone:x', 'A', false), ('@guest:x', 'A', false), ('@locked:x', 'A', false);
	INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, forgotten) VALUES
		('$m1', '@user:x', '@user:x', '!room:x', 'join', 0), ('$m4', '@gone:x', '@gone:x', '!room:x', 'leave', 1),
		('$m0', '@gone:x', '@gone:x', '!room:x', 'join', 0);
	INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES
		('!room:x', '@user:x', '$m1', 'join'), ('!room:x', '@gone:x', '$m4', 'leave');`

const roomNotFound = `{"errcode":"M_NOT_FOUND","error":"Room not found"}`

func TestRoomDetails(t *testing.T) {
	t.Parallel()
	b, conn := setupWith(t, aRoom)
	requireJSON(t, b.send(t, "GET", rooms+"/!room:x", ""), 200, `{
		"room_id": "!room:x", "name": "a <room>", "canonical_alias": null, "joined_members": 3, "joined_local_members": 2,
		"version": "10", "creator": "@admin:x", "encryption": null, "federatable": true, "public": true, "join_rules": null,
		"guest_access": null, "history_visibility": null, "state_events": 9, "room_type": null, "avatar": "mxc://x/y",
		"topic": "what it is of", "joined_local_devices": 3, "forgotten": false, "tombstoned": false, "replacement_room": null}`)
	bare := func(id string) string {
		return `{"room_id": "` + id + `", "name": null, "canonical_alias": null, "joined_members": null, "joined_local_members": null,
		"version": null, "creator": null, "encryption": null, "federatable": false, "public": false, "join_rules": null,
		"guest_access": null, "history_visibility": null, "state_events": null, "room_type": null, "avatar": null,
		"topic": null, "joined_local_devices": 0, "forgotten": true, "tombstoned": false, "replacement_room": null}`
	}
	requireJSON(t, b.send(t, "GET", rooms+"/%21bare%3Ax", ""), 200, bare("!bare:x"))
	requireJSON(t, b.send(t, "GET", rooms+"/", ""), 200, bare(""))
	for _, path := range []string{"/!nobody:x", "/junk", "/!room:X", "/!room:x%00", "/%FF", "/%2F", "/!room%253Ax", "/!other:x"} {
		requireJSON(t, b.send(t, "GET", rooms+path, ""), 404, roomNotFound)
		requireJSON(t, b.send(t, "GET", rooms+path+"/members", ""), 404, roomNotFound)
		requireJSON(t, b.send(t, "GET", rooms+path+"/state", ""), 404, roomNotFound)
		requireJSON(t, b.send(t, "GET", rooms+path+"/state?type=m.room.name", ""), 404, roomNotFound)
	}

	// One that is not forgotten by one user is not forgotten, and the last leaves.
	_, err := conn.Exec(t.Context(), `UPDATE room_memberships SET forgotten = 1 WHERE event_id = '$m1'`)
	require.NoError(t, err)
	require.Contains(t, b.send(t, "GET", rooms+"/!room:x", "").body, `"forgotten":true`)

	for content, want := range map[string]string{
		`{"replacement_room":"!new:x"}`: `"tombstoned":true,"replacement_room":"!new:x"`,
		`{"replacement_room":7}`:        `"tombstoned":true,"replacement_room":null`,
		`{}`:                            `"tombstoned":true,"replacement_room":null`,
		`[]`:                            `"tombstoned":true,"replacement_room":null`,
	} {
		_, err := conn.Exec(t.Context(), `
			DELETE FROM current_state_events WHERE type = 'm.room.tombstone';
			DELETE FROM events WHERE event_id = '$t';
			DELETE FROM event_json WHERE event_id = '$t';
			INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, stream_ordering)
				VALUES (1, '$t', 'm.room.tombstone', '!room:x', true, false, 100);
			INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ('$t', '!room:x', '{}', '{"content":`+content+`}');
			INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ('$t', '!room:x', 'm.room.tombstone', '')`)
		require.NoError(t, err)
		require.Contains(t, b.send(t, "GET", rooms+"/!room:x", "").body, want)
	}
}

func TestRoomMembers(t *testing.T) {
	t.Parallel()
	b, _ := setupWith(t, aRoom)
	requireJSON(t, b.send(t, "GET", rooms+"/!room:x/members", ""), 200, `{"members":["@admin:x","@far:y","@user:x"],"total":3}`)
	for _, room := range []string{"", "!bare:x", "!a%2Fb%252F:x"} {
		requireJSON(t, b.send(t, "GET", rooms+"/"+room+"/members", ""), 200, `{"members":[],"total":0}`)
		requireJSON(t, b.send(t, "GET", rooms+"/"+room+"/state", ""), 200, `{"state":[]}`)
	}
}

// A stateRoom is a server whose !room:x gets other state again and again.
type stateRoom struct {
	*bundle
	conn *pgx.Conn
}

func setupState(t *testing.T) stateRoom {
	t.Helper()
	b, conn := setupWith(t, ``)
	return stateRoom{b, conn}
}

// requireStateOf sets the room's state to the given events, each a type, a key and its
// JSON, with the ids $s0, $s1 and so on. It runs the SQL and returns the answer.
func (r stateRoom) requireStateOf(t *testing.T, version, sql string, events ...[3]string) []map[string]any {
	t.Helper()
	conn := r.conn
	_, err := conn.Exec(t.Context(), `
		DELETE FROM rooms;
		DELETE FROM redactions;
		DELETE FROM rejections;
		DELETE FROM current_state_events;
		DELETE FROM event_json WHERE event_id LIKE '$s%';
		DELETE FROM events WHERE event_id LIKE '$s%'`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `INSERT INTO rooms (room_id, room_version) VALUES ('!room:x', nullif($1, ''))`, version)
	require.NoError(t, err)
	for i, event := range events {
		id, sender := fmt.Sprintf("$s%d", i), "@sender:x"
		_, err := conn.Exec(t.Context(), `
			INSERT INTO events (topological_ordering, event_id, type, state_key, room_id, processed, outlier, sender, stream_ordering)
			VALUES (1, $1, $2, $3, '!room:x', true, false, $4, $5)`, id, event[0], event[1], sender, 100+i)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `
			INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ($1, '!room:x', '{}', $2)`, id, event[2])
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `
			INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1, '!room:x', $2, $3)`, id, event[0], event[1])
		require.NoError(t, err)
	}
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
	return r.requireState(t, "")
}

func (b *bundle) requireState(t *testing.T, query string) []map[string]any {
	t.Helper()
	r := b.send(t, "GET", rooms+"/!room:x/state"+query, "")
	require.Equal(t, 200, r.status, r.body)
	require.Equal(t, "application/json", r.header.Get("Content-Type"))
	requireHeaders(t, r.header)
	var answer struct{ State []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(r.body), &answer), r.body)
	return answer.State
}

func requireEvent(t *testing.T, want string, got map[string]any) {
	t.Helper()
	text, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, want, string(text))
}

func TestStateIsInClientFormat(t *testing.T) {
	t.Parallel()
	state := setupState(t).requireStateOf(t, "10", `
		UPDATE events SET sender = '@who:x' WHERE event_id = '$s0'`,
		[3]string{"a", "", `{"type":"a","state_key":"","sender":"@who:x","content":{"n":12345678901234567890,"f":1.50,"<":"\ud800"},
			"origin_server_ts":5,"room_id":"!lie:x","event_id":"$lie","auth_events":[],"prev_events":[],"hashes":{},"signatures":{},
			"depth":1,"origin":"x","prev_state":[],"extra":{"kept":true},
			"unsigned":{"replaces_state":"$s1","invite_room_state":[],"knock_room_state":[],"other":[1]}}`},
		[3]string{"b", "", `{"type":"b","state_key":"","sender":"@before:x","content":{"was":1},"unsigned":{"replaces_state":"$nobody"}}`},
		[3]string{"c", "", `{"type":"c","content":{},"unsigned":{"replaces_state":"$s1"}}`}, // no state key
		[3]string{"d", "", `{"type":"d","state_key":"","content":{},"unsigned":[]}`},
		[3]string{"e", "", `{"type":"e","state_key":"","content":{},"unsigned":{"replaces_state":{}}}`},
	)
	require.Len(t, state, 5)
	requireEvent(t, `{"type":"a","state_key":"","sender":"@who:x","user_id":"@who:x","content":{"n":12345678901234567890,"f":1.5,"<":"\ufffd"},
		"origin_server_ts":5,"room_id":"!room:x","event_id":"$s0","extra":{"kept":true},"replaces_state":"$s1","prev_content":{"was":1},
		"unsigned":{"replaces_state":"$s1","prev_content":{"was":1},"prev_sender":"@before:x"}}`, state[0])
	requireEvent(t, `{"type":"b","state_key":"","sender":"@before:x","user_id":"@before:x","content":{"was":1},"room_id":"!room:x",
		"event_id":"$s1","replaces_state":"$nobody","unsigned":{"replaces_state":"$nobody"}}`, state[1])
	requireEvent(t, `{"type":"c","content":{},"room_id":"!room:x","event_id":"$s2","replaces_state":"$s1","unsigned":{"replaces_state":"$s1"}}`, state[2])
	requireEvent(t, `{"type":"d","state_key":"","content":{},"room_id":"!room:x","event_id":"$s3","unsigned":{}}`, state[3])
	requireEvent(t, `{"type":"e","state_key":"","content":{},"room_id":"!room:x","event_id":"$s4","unsigned":{}}`, state[4])
}

func TestStateHasAges(t *testing.T) {
	t.Parallel()
	sent := time.Now().Add(-time.Hour).UnixMilli()
	state := setupState(t).requireStateOf(t, "10", ``,
		[3]string{"a", "", fmt.Sprintf(`{"unsigned":{"age_ts":%d}}`, sent)},
		[3]string{"b", "", `{"unsigned":{"age_ts":"5"}}`})
	age, ok := state[0]["age"].(float64)
	require.True(t, ok)
	require.InDelta(t, time.Hour.Milliseconds(), age, 5*60*1000)
	require.Equal(t, map[string]any{"age": age}, state[0]["unsigned"])
	require.Equal(t, map[string]any{}, state[1]["unsigned"])
}

func TestStateLeavesOutWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	state := setupState(t).requireStateOf(t, "", `
		DELETE FROM event_json WHERE event_id = '$s4';
		INSERT INTO rejections (event_id, reason, last_check) VALUES ('$s5', '', '');
		UPDATE events SET rejection_reason = 'x' WHERE event_id = '$s6'`,
		[3]string{"a", "", `[]`}, [3]string{"b", "", `{`}, [3]string{"c", "", `null`}, [3]string{"d", "", ``},
		[3]string{"e", "", `{}`}, [3]string{"f", "", `{}`}, [3]string{"g", "", `{}`},
		[3]string{"h", "", strings.Repeat(`{"a":`, 20000) + `1` + strings.Repeat(`}`, 20000)},
		[3]string{"", "", `{"content":"\u0000","type":7,"sender":null}`})
	require.Len(t, state, 1)
	requireEvent(t, `{"content":"\u0000","type":7,"sender":null,"user_id":null,"event_id":"$s8","room_id":"!room:x","unsigned":{}}`, state[0])
}

func TestStateOfOneType(t *testing.T) {
	t.Parallel()
	b, conn := setupWith(t, `INSERT INTO rooms (room_id) VALUES ('!room:x')`)
	// More than one page, and more than one page of a type.
	_, err := conn.Exec(t.Context(), `
		WITH made AS (
			SELECT i, CASE WHEN i <= 450 THEN 'one' ELSE 'other' END AS type, '$s' || i AS id, 'k' || i AS key FROM generate_series(1, 600) i
		), e AS (
			INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, stream_ordering)
			SELECT 1, id, type, '!room:x', true, false, 100 + i FROM made
		), j AS (
			INSERT INTO event_json (event_id, room_id, internal_metadata, json) SELECT id, '!room:x', '{}', '{}' FROM made
		)
		INSERT INTO current_state_events (event_id, room_id, type, state_key) SELECT id, '!room:x', type, key FROM made`)
	require.NoError(t, err)
	for query, want := range map[string]int{
		"": 600, "?type=": 600, "?type": 600, "?type=one": 450, "?type=other": 150, "?type=one&type=other": 450, "?type=ONE": 0,
		"?type=on": 0, "?type=%25": 0, "?type=%00": 0,
	} {
		seen := map[any]bool{}
		for _, event := range b.requireState(t, query) {
			seen[event["event_id"]] = true
		}
		require.Len(t, seen, want, query)
		require.Len(t, b.requireState(t, query), want, query)
	}
	_, err = conn.Exec(t.Context(), `DELETE FROM current_state_events WHERE state_key > 'k399' AND type = 'one'; DELETE FROM current_state_events WHERE type = 'other'`)
	require.NoError(t, err)
	left := len(b.requireState(t, ""))
	_, err = conn.Exec(t.Context(), `DELETE FROM current_state_events WHERE event_id IN (SELECT event_id FROM current_state_events LIMIT $1)`, left-200)
	require.NoError(t, err)
	require.Len(t, b.requireState(t, ""), 200, "a last page that is full")
	requireJSON(t, b.send(t, "GET", rooms+"/!room:x/state?type=%C3%A4", ""), 400,
		refusal("M_UNKNOWN", "Query parameter 'type' must be ascii"))
	head := b.raw(t, "HEAD "+rooms+"/!room:x/state HTTP/1.1\nHost: x\nAuthorization: Bearer admin\n\n")
	require.Equal(t, 200, head.status)
	require.Empty(t, head.body)
}

// What a redaction leaves of a content depends on the type and the room version.
func TestRedactedState(t *testing.T) {
	t.Parallel()
	r := setupState(t)
	const content = `{"a":1,"aliases":[1],"allow":[2],"ban":3,"creator":4,"events":5,"history_visibility":6,"invite":7,"join_rule":8,` +
		`"join_authorised_via_users_server":9,"membership":10,"redacts":"$11","third_party_invite":{"signed":12,"b":13}}`
	for _, test := range []struct{ version, kind, want string }{
		{"1", "m.room.aliases", `{"aliases":[1]}`},
		{"5", "m.room.aliases", `{"aliases":[1]}`},
		{"6", "m.room.aliases", `{}`},
		{"7", "m.room.join_rules", `{"join_rule":8}`},
		{"8", "m.room.join_rules", `{"join_rule":8,"allow":[2]}`},
		{"8", "m.room.member", `{"membership":10}`},
		{"9", "m.room.member", `{"membership":10,"join_authorised_via_users_server":9}`},
		{"11", "m.room.member", `{"membership":10,"join_authorised_via_users_server":9,"third_party_invite":{"signed":12}}`},
		{"10", "m.room.power_levels", `{"ban":3,"events":5}`},
		{"11", "m.room.power_levels", `{"ban":3,"events":5,"invite":7}`},
		{"10", "m.room.history_visibility", `{"history_visibility":6}`},
		{"12", "m.room.name", `{}`},
		{"", "m.room.power_levels", `{"ban":3,"events":5,"invite":7}`},
		{"org.example.mine", "m.room.name", `{}`},
		{"12", "m.room.create", content}, // is never redacted
		{"1", "m.room.create", content},
	} {
		t.Run(test.version+test.kind, func(t *testing.T) {
			state := r.requireStateOf(t, test.version, `
				INSERT INTO redactions (event_id, redacts, recheck) VALUES ('$s1', '$s0', false)`,
				[3]string{test.kind, "", `{"type":"` + test.kind + `","state_key":"","sender":"@sender:x","content":` + content + `,
					"origin_server_ts":5,"extra":1,"unsigned":{"age":1,"other":2,"replaces_state":"$s1"}}`},
				[3]string{"redaction", "", `{"type":"m.room.redaction","sender":"@who:x","redacts":"$old","content":{"redacts":"$new"}}`})
			got, err := json.Marshal(state[0]["content"])
			require.NoError(t, err)
			require.JSONEq(t, test.want, string(got))
			if test.kind == "m.room.create" {
				require.NotContains(t, state[0], "redacted_because")
				return
			}
			require.NotContains(t, state[0], "extra")
			target := "$new"
			if len(test.version) == 1 || test.version == "10" {
				target = "$old"
			}
			because := map[string]any{
				"type": "m.room.redaction", "sender": "@who:x", "user_id": "@who:x", "redacts": target, "room_id": "!room:x",
				"event_id": "$s1", "content": map[string]any{"redacts": target}, "unsigned": map[string]any{},
			}
			require.Equal(t, because, state[0]["redacted_because"])
			unsigned := state[0]["unsigned"].(map[string]any)
			require.Equal(t, because, unsigned["redacted_because"])
			require.Equal(t, "$s1", unsigned["redacted_by"])
			require.NotContains(t, unsigned, "other")
			require.Equal(t, map[string]any{"redacts": "$new"}, unsigned["prev_content"])
		})
	}
}

// A redaction that came before what it redacts is judged when that is read.
func TestWhichRedactionsCount(t *testing.T) {
	t.Parallel()
	r := setupState(t)
	const (
		redaction = `INSERT INTO redactions (event_id, redacts, recheck) VALUES `
		noted     = `UPDATE event_json SET internal_metadata = '{"recheck_redaction":true}' WHERE event_id = '$s1'; `
	)
	for name, test := range map[string]struct {
		sql  string
		want any
	}{
		"confirmed":                      {redaction + `('$s1', '$s0', false)`, "$s1"},
		"confirmed and gone":             {redaction + `('$gone', '$s0', false)`, "$gone"},
		"to be checked":                  {redaction + `('$s1', '$s0', true)`, "$s1"},
		"to be checked and gone":         {redaction + `('$gone', '$s0', true)`, nil},
		"to be checked and rejected":     {redaction + `('$s1', '$s0', true); INSERT INTO rejections VALUES ('$s1', '', '')`, nil},
		"to be checked and refused":      {redaction + `('$s1', '$s0', true); UPDATE events SET rejection_reason = '' WHERE event_id = '$s1'`, nil},
		"to be checked, of another room": {redaction + `('$other', '$s0', true); UPDATE events SET sender = '@sender:x' WHERE event_id = '$other'`, nil},
		"to be checked, same server":     {noted + redaction + `('$s1', '$s0', true); UPDATE events SET sender = '@else:x' WHERE event_id = '$s1'`, "$s1"},
		"to be checked, other server":    {noted + redaction + `('$s1', '$s0', true); UPDATE events SET sender = '@sender:y' WHERE event_id = '$s1'`, nil},
		"to be checked, other port":      {noted + redaction + `('$s1', '$s0', true); UPDATE events SET sender = '@sender:x:1' WHERE event_id = '$s1'`, nil},
		// The homeserver knew that the sender had the power, and has yet to fill the column.
		"by a moderator":               {redaction + `('$s1', '$s0', true); UPDATE events SET sender = '@sender:y' WHERE event_id = '$s1'`, "$s1"},
		"of another event":             {redaction + `('$s0', '$s1', false)`, nil},
		"the first of those confirmed": {redaction + `('$s1', '$s0', true), ('$s3', '$s0', false), ('$s2', '$s0', false)`, "$s2"},
	} {
		t.Run(name, func(t *testing.T) {
			event := func(kind string) [3]string {
				return [3]string{kind, "", `{"type":"` + kind + `","state_key":"","sender":"@sender:x","content":{"a":1}}`}
			}
			state := r.requireStateOf(t, "10", test.sql, event("a"), event("b"), event("c"), event("d"))
			unsigned := state[0]["unsigned"].(map[string]any)
			require.Equal(t, test.want, unsigned["redacted_by"])
			require.Equal(t, test.want == nil, len(state[0]["content"].(map[string]any)) == 1)
			require.Equal(t, test.want != nil && test.want != "$gone", state[0]["redacted_because"] != nil)
		})
	}
}

// Older schemas do not say which redactions are to be checked: all are.
func TestRedactionOnAnOlderSchema(t *testing.T) {
	t.Parallel()
	r := setupState(t)
	state := r.requireStateOf(t, "10", `
		ALTER TABLE redactions DROP COLUMN recheck;
		INSERT INTO redactions (event_id, redacts) VALUES ('$s1', '$s0')`,
		[3]string{"a", "", `{"type":"a","state_key":"","sender":"@sender:x","content":{"a":1}}`},
		[3]string{"b", "", `{"type":"b","state_key":"","sender":"@sender:x","content":{"a":1}}`})
	require.Equal(t, "$s1", state[0]["unsigned"].(map[string]any)["redacted_by"])
}

// What a state event took the place of is shown as redacted as it is.
func TestPreviousContent(t *testing.T) {
	t.Parallel()
	r := setupState(t)
	events := [][3]string{
		{"a", "", `{"type":"a","state_key":"","sender":"@sender:x","content":{},"unsigned":{"replaces_state":"$s1"}}`},
		{"m.room.join_rules", "", `{"type":"m.room.join_rules","state_key":"","sender":"@sender:x","content":{"join_rule":"a","secret":1}}`},
	}
	plain := r.requireStateOf(t, "10", ``, events...)[0]
	require.Equal(t, map[string]any{"join_rule": "a", "secret": 1.0}, plain["prev_content"])
	redacted := r.requireStateOf(t, "10", `INSERT INTO redactions (event_id, redacts, recheck) VALUES ('$gone', '$s1', false)`, events...)[0]
	require.Equal(t, map[string]any{"join_rule": "a"}, redacted["prev_content"])
	// Outside the timeline, as a purge leaves it, nothing is shown of it.
	outlier := r.requireStateOf(t, "10", `UPDATE events SET outlier = true WHERE event_id = '$s0'`, events...)[0]
	require.NotContains(t, outlier, "prev_content")
	require.Equal(t, map[string]any{"replaces_state": "$s1"}, outlier["unsigned"])
	rejected := r.requireStateOf(t, "10", `INSERT INTO rejections VALUES ('$s1', '', '')`, events...)[0]
	require.NotContains(t, rejected, "prev_content")
}
