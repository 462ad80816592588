package httpapi_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// extremities are those of four rooms: the newest in the stream is neither the
// deepest nor the first by its id.
const extremities = `
	INSERT INTO rooms (room_id) VALUES ('!many:x'), ('!one:x'), ('!none:x');
	INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, received_ts, stream_ordering) VALUES
		(9, '$c', 't', '!many:x', true, false, 9, 900, 101), (5, '$b', 't', '!many:x', true, false, 5, NULL, 103),
		(7, '$a', 't', '!many:x', true, false, 7, 700, 102), (8, '$old', 't', '!many:x', true, false, 8, 100, -104),
		(8, '$lone', 't', '!one:x', true, false, 8, 100, 105), (8, '$roomless', 't', '!roomless:x', true, false, 8, 100, 106),
		(8, '$roomless2', 't', '!roomless:x', true, false, 8, 100, 107);
	INSERT INTO event_to_state_groups (event_id, state_group) VALUES
		('$a', 1), ('$b', 2), ('$c', 3), ('$old', 4), ('$lone', 5), ('$roomless', 6), ('$roomless2', 7);
	INSERT INTO event_forward_extremities (event_id, room_id) VALUES
		('$a', '!many:x'), ('$b', '!many:x'), ('$c', '!many:x'), ('$old', '!many:x'), ('$lone', '!one:x'),
		('$roomless', '!roomless:x'), ('$roomless2', '!roomless:x');
	INSERT INTO room_aliases (room_alias, room_id) VALUES ('#many:x', '!many:x'), ('#none/ü:x', '!none:x')`

func TestForwardExtremities(t *testing.T) {
	t.Parallel()
	b, conn := setupWith(t, extremities)
	const none = `{"count":0,"results":[]}`
	const many = `{"count":4,"results":[{"event_id":"$a","state_group":1,"depth":7,"received_ts":700},
		{"event_id":"$b","state_group":2,"depth":5,"received_ts":null},{"event_id":"$c","state_group":3,"depth":9,"received_ts":900},
		{"event_id":"$old","state_group":4,"depth":8,"received_ts":100}]}`
	path := func(room string) string { return rooms + "/" + room + "/forward_extremities" }
	for _, name := range []string{"!many:x", "%21many%3Ax", "%23many:x", "%23many%3Ax"} {
		requireJSON(t, b.send(t, "GET", path(name), ""), 200, many)
	}
	for _, name := range []string{"!none:x", "!unknown:x", "!%00:x", "%23none%2F%C3%BC:x", "!" + strings.Repeat("x", 43)} {
		requireJSON(t, b.send(t, "GET", path(name), ""), 200, none)
	}
	for name, id := range map[string]string{
		"%23nobody:x": "#nobody:x", "%23many:y": "#many:y", "%23MANY:x": "#MANY:x", "%23%00:x": "#\x00:x", "%23:x": "#:x",
	} {
		refused := refusal("M_NOT_FOUND", "Room alias "+id+" not found")
		requireJSON(t, b.send(t, "GET", path(name), ""), 404, refused)
		requireJSON(t, b.send(t, "DELETE", path(name), ""), 404, refused)
	}
	for name, id := range map[string]string{
		"": "", "junk": "junk", "many:x": "many:x", "%23many": "#many", "%23many:": "#many:", "%23many:x:y": "#many:x:y", "%23": "#",
		"!many": "!many", "!many:": "!many:", "@many:x": "@many:x", "%2523many:x": "%23many:x",
	} {
		refused := refusal("M_UNKNOWN", id+" was not legal room ID or room alias")
		requireJSON(t, b.send(t, "GET", path(name), ""), 400, refused)
		requireJSON(t, b.send(t, "DELETE", path(name), ""), 400, refused)
	}

	for name, id := range map[string]string{
		"!none:x": "!none:x", "!unknown:x": "!unknown:x", "!%00:x": "!\x00:x", "%23none%2F%C3%BC:x": "!none:x",
	} {
		requireJSON(t, b.send(t, "DELETE", path(name), ""), 400, refusal("M_UNKNOWN", "No forward extremity event found for room "+id))
	}
	requireJSON(t, b.send(t, "DELETE", path("%23many:x"), ""), 200, `{"deleted":3}`)
	requireJSON(t, b.send(t, "DELETE", path("!many:x"), `junk`), 200, `{"deleted":0}`)
	requireJSON(t, b.send(t, "DELETE", path("!one:x"), ""), 200, `{"deleted":0}`)
	requireJSON(t, b.send(t, "DELETE", path("!roomless:x"), ""), 200, `{"deleted":1}`)
	rows, err := conn.Query(t.Context(), `SELECT event_id FROM event_forward_extremities ORDER BY 1`)
	require.NoError(t, err)
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"$b", "$lone", "$roomless2"}, left)
	var events int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM events WHERE stream_ordering > 100 OR stream_ordering < 0`).Scan(&events))
	require.Equal(t, 7, events, "the events stay")
}
