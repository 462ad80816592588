package httpapi_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestBlock(t *testing.T) {
	t.Parallel()
	b, conn := setupWith(t, `INSERT INTO blocked_rooms (room_id, user_id) VALUES ('!first:x', '@first:x')`)
	const blocked, free = `{"block":true}`, `{"block":false}`
	hash := "!" + strings.Repeat("aZ09-_7", 6) + "x"
	for _, room := range []string{"!new:x", "!remote:y:8448", "!%3Cü%20%2F%252F:[::1]", hash, "!:x"} {
		path := rooms + "/" + strings.ReplaceAll(room, "ü", "%C3%BC") + "/block"
		requireJSON(t, b.send(t, "GET", path, ""), 200, free)
		requireJSON(t, b.send(t, "PUT", path, free), 200, free)
		for range 2 {
			requireJSON(t, b.send(t, "PUT", path, `{"block":true,"BLOCK":false,"x":1}`), 200, blocked)
			requireJSON(t, b.send(t, "GET", path, ""), 200, `{"block":true,"user_id":"@admin:x"}`)
		}
		for range 2 {
			requireJSON(t, b.send(t, "PUT", path, free), 200, free)
			requireJSON(t, b.send(t, "GET", path, ""), 200, free)
		}
	}
	// The first blocker stays.
	requireJSON(t, b.send(t, "PUT", rooms+"/%21first%3Ax/block", blocked), 200, blocked)
	requireJSON(t, b.send(t, "GET", rooms+"/!first:x/block", ""), 200, `{"block":true,"user_id":"@first:x"}`)

	const last = "/!first:x/block"
	for body, want := range map[string][2]string{
		``:                 {"M_NOT_JSON", "Content not JSON."},
		`{`:                {"M_NOT_JSON", "Content not JSON."},
		`[]`:               {"M_BAD_JSON", "Content must be a JSON object."},
		`null`:             {"M_BAD_JSON", "Content must be a JSON object."},
		`{}`:               {"M_MISSING_PARAM", "Missing params: ['block']"},
		`{"Block":true}`:   {"M_MISSING_PARAM", "Missing params: ['block']"},
		`{"block":"true"}`: {"M_BAD_JSON", "Param 'block' must be a boolean."},
		`{"block":null}`:   {"M_BAD_JSON", "Param 'block' must be a boolean."},
		`{"block":1}`:      {"M_BAD_JSON", "Param 'block' must be a boolean."},
		`{"block":[true]}`: {"M_BAD_JSON", "Param 'block' must be a boolean."},
	} {
		requireJSON(t, b.send(t, "PUT", rooms+last, body), 400, refusal(want[0], want[1]))
		if want[0] == "M_NOT_JSON" || body == "[]" { // is judged before the id
			requireJSON(t, b.send(t, "PUT", rooms+"/junk/block", body), 400, refusal(want[0], want[1]))
		}
	}
	for path, id := range map[string]string{
		"": "", "junk": "junk", "room:x": "room:x", "@user:x": "@user:x", "%23alias:x": "#alias:x", "!": "!", "!x": "!x",
		"!room:": "!room:", "!room:x:y": "!room:x:y", "!room:x%2Fy": "!room:x/y", "!room%253Ax": "!room%3Ax", "!r:%00": "!r:\x00",
		"!r%00:x": "!r\x00:x", "!r:%FF": "!r:\uFFFD", hash[1:]: hash[1:], hash + "x": hash + "x", "!<>": "!<>",
	} {
		refused := refusal("M_UNKNOWN", id+" is not a legal room ID")
		requireJSON(t, b.send(t, "GET", rooms+"/"+path+"/block", ""), 400, refused)
		requireJSON(t, b.send(t, "PUT", rooms+"/"+path+"/block", blocked), 400, refused)
		requireJSON(t, b.send(t, "PUT", rooms+"/"+path+"/block", `{}`), 400, refused)
	}
	rows, err := conn.Query(t.Context(), `SELECT room_id || ' ' || user_id FROM blocked_rooms`)
	require.NoError(t, err)
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"!first:x @first:x"}, left)
}
