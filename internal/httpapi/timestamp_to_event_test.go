package httpapi_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestTimestampToEvent(t *testing.T) {
	t.Parallel()
	b, _ := setupWith(t, `
		INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, stream_ordering) VALUES
			(1, '$a', 't', '!time:x', true, false, 1, 100, 101),
			(1, '$late', 't', '!time:x', true, false, 9, 150, 102), -- sent before what it follows
			(1, '$b1', 't', '!time:x', true, false, 2, 200, 104),
			(1, '$b2', 't', '!time:x', true, false, 3, 200, 103),
			(1, '$b3', 't', '!time:x', true, false, 3, 200, 105),
			(1, '$out', 't', '!time:x', true, true, 4, 250, 106),
			(1, '$rejected1', 't', '!time:x', true, false, 4, 260, 107),
			(1, '$rejected2', 't', '!time:x', true, false, 4, 270, 108),
			(1, '$never', 't', '!time:x', true, false, 4, NULL, 109),
			(1, '$zero', 't', '!time:x', true, false, 4, 0, 111),
			(1, '$negative', 't', '!time:x', true, false, 4, -5, 110),
			(1, '$end', 't', '!time:x', true, false, 4, 9223372036854775807, 112),
			(1, '$else', 't', '!else/ü:x', true, false, 4, 180, 113);
		INSERT INTO rejections (event_id, reason, last_check) VALUES ('$rejected1', '', '');
		UPDATE events SET rejection_reason = 'x' WHERE event_id = '$rejected2'`)
	path := func(room, query string) string { return rooms + "/" + room + "/timestamp_to_event" + query }
	const most = 1<<63 - 1
	for query, want := range map[string]struct {
		id string
		ts int64
	}{
		"ts=100": {"$a", 100}, "ts=99": {"$a", 100}, "ts=101": {"$late", 150}, "ts=151&dir=f": {"$b1", 200}, "ts=200": {"$b1", 200},
		"ts=201": {"$end", most}, "ts=0": {"$zero", 0}, "ts=1": {"$a", 100}, "ts=9223372036854775807": {"$end", most},
		"ts=99999999999999999999": {"$end", most}, "ts=+5+": {"$a", 100},
		"ts=9223372036854775806&dir=b": {"$b3", 200}, "ts=300&dir=b": {"$b3", 200}, "ts=200&dir=b": {"$b3", 200}, "ts=199&dir=b": {"$late", 150},
		"ts=149&dir=b": {"$a", 100}, "ts=99&dir=b": {"$zero", 0}, "dir=b&ts=0&ts=300&dir=f": {"$zero", 0},
		"ts=9223372036854775808&dir=b": {"$end", most},
	} {
		requireJSON(t, b.send(t, "GET", path("%21time:x", "?"+query), ""), 200, fmt.Sprintf(`{"event_id":%q,"origin_server_ts":%d}`, want.id, want.ts))
	}
	requireJSON(t, b.send(t, "GET", path("!else%2F%C3%BC%3Ax", "?ts=1"), ""), 200, `{"event_id":"$else","origin_server_ts":180}`)
	for request, want := range map[string]string{
		path("!else%2F%C3%BC:x", "?ts=181"):                          "181 in direction Direction.FORWARDS",
		path("!else%2F%C3%BC:x", "?ts=179&dir=b"):                    "179 in direction Direction.BACKWARDS",
		path("!unknown:x", "?ts=007"):                                "7 in direction Direction.FORWARDS",
		path("junk", "?ts=7&dir=b"):                                  "7 in direction Direction.BACKWARDS",
		path("", "?ts=9223372036854775807"):                          "9223372036854775807 in direction Direction.FORWARDS",
		path("%00", "?ts=0"):                                         "0 in direction Direction.FORWARDS",
		path(strings.Repeat("%FF", 1000), "?ts=9223372036854775808"): "9223372036854775807 in direction Direction.FORWARDS",
	} {
		requireJSON(t, b.send(t, "GET", request, ""), 404, refusal("M_NOT_FOUND", "Unable to find event from "+want))
	}
	for query, want := range map[string][2]string{
		"":            {"M_MISSING_PARAM", "Missing required integer query parameter ts"},
		"?ts":         {"M_MISSING_PARAM", "Missing required integer query parameter ts"},
		"?dir=x":      {"M_MISSING_PARAM", "Missing required integer query parameter ts"},
		"?ts=":        {"M_INVALID_PARAM", "Query parameter ts must be an integer"},
		"?ts=now":     {"M_INVALID_PARAM", "Query parameter ts must be an integer"},
		"?ts=-1":      {"M_INVALID_PARAM", "Query parameter ts must be a positive integer."},
		"?ts=1&dir=x": {"M_INVALID_PARAM", "Query parameter 'dir' must be one of ['b', 'f']"},
	} {
		requireJSON(t, b.send(t, "GET", path("!time:x", query), ""), 400, refusal(want[0], want[1]))
		requireJSON(t, b.send(t, "GET", path("!unknown:x", query), ""), 400, refusal(want[0], want[1]))
	}
}
