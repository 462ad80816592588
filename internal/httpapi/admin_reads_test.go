package httpapi_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
)

const adminV1 = "/_synapse/admin/v1"

// A database that Lethe has made itself has no table for reports.
func TestEventReportsWithoutTheirTable(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	requireJSON(t, b.send(t, "GET", adminV1+"/event_reports", ""), 200, `{"event_reports":[],"total":0}`)
	requireJSON(t, b.send(t, "GET", adminV1+"/event_reports/1", ""), 404, refusal("M_NOT_FOUND", "Event report not found"))
}

// What a user has reported is any JSON, and a percent sign in a search is one.
func TestEventReportsOfHostileUsers(t *testing.T) {
	t.Parallel()
	b, _ := setupWith(t, `
		CREATE TABLE public.event_reports (id bigint, received_ts bigint, room_id text, event_id text, user_id text, content text);
		INSERT INTO room_stats_state (room_id) VALUES ('!room:x');
		INSERT INTO event_reports VALUES
			(1, 1, '!room:x', '$one', '@a%b:x', '{"score":{"a":[1e300]},"reason":"\u0000<"}'),
			(2, 1, '!room:x', '$one', '@a_b:x', 'no JSON'),
			(3, 1, '!room:x', '$one', '@ab:x', NULL);
		UPDATE event_json SET json = 'no JSON' WHERE event_id = '$one'`)
	list := func(query string) []any {
		r := b.send(t, "GET", adminV1+"/event_reports?dir=f&"+query, "")
		require.Equal(t, 200, r.status, r.body)
		var answer map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.body), &answer))
		return answer["event_reports"].([]any)
	}
	require.Len(t, list("user_id=a%25b"), 1)
	require.Len(t, list("user_id=a_b"), 1)
	require.Empty(t, list("user_id=%00"))
	require.Empty(t, list("from=9223372036854775807&limit=9223372036854775807"))
	requireJSON(t, b.send(t, "GET", adminV1+"/event_reports/1", ""), 200, `{
		"id":1,"received_ts":1,"room_id":"!room:x","event_id":"$one","user_id":"@a%b:x","score":{"a":[1e300]},"reason":"\u0000<",
		"sender":null,"canonical_alias":null,"name":null,"event_json":null}`)
	for _, id := range []string{"2", "3"} {
		require.Equal(t, 200, b.send(t, "GET", adminV1+"/event_reports/"+id, "").status)
	}
}

// A page token of a hierarchy belongs to the user, the room and the depth.
func TestHierarchyTokens(t *testing.T) {
	t.Parallel()
	handler, tokens := recordedLab(t)
	const space = adminV1 + "/rooms/%21SzePNUvVvLSRnrWOay%3Alab.test/hierarchy"
	type answer struct {
		Rooms []json.RawMessage `json:"rooms"`
		Next  string            `json:"next_batch"`
	}
	get := func(query string) (a answer) {
		t.Helper()
		w := ask(t, handler, space+query, tokens["@admin:lab.test"])
		require.Equal(t, 200, w.Code, w.Body)
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		return a
	}
	whole := get("")
	require.Len(t, whole.Rooms, 6)
	require.Empty(t, whole.Next)
	var pages []json.RawMessage
	first := get("?limit=2")
	for page := first; ; page = get("?limit=2&from=" + url.QueryEscape(page.Next)) {
		pages = append(pages, page.Rooms...)
		if page.Next == "" {
			break
		}
	}
	require.Equal(t, whole.Rooms, pages)
	for _, target := range []string{
		space + "?max_depth=1&from=" + first.Next,
		adminV1 + "/rooms/%21N_qypo9TvX1N-ZKvkPT2GIoMkvWul9ZYVKiN-ZiNa9I/hierarchy?from=" + first.Next,
		space + "?from=-1" + first.Next[1:], space + "?from=x" + first.Next[1:], space + "?from=99999999999999999999" + first.Next[1:],
		space + "?from=" + first.Next + "0", space + "?from=2-", space + "?from=-",
	} {
		w := ask(t, handler, target, tokens["@admin:lab.test"])
		require.Equal(t, 400, w.Code, target)
		require.JSONEq(t, refusal("M_INVALID_PARAM", "Unknown pagination token"), w.Body.String())
	}
}

func TestRoomMediaOfManyEvents(t *testing.T) {
	t.Parallel()
	b, _ := setupWith(t, `
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, contains_url)
		SELECT '$m' || i, '!media:x', 't', 1, 1, 1000 + i, true, i % 100 = 0, i % 2 = 0 FROM generate_series(1, 1000) i;
		INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT event_id, room_id, '{}', format('{"content":{"url":"mxc://far/%s"}}', stream_ordering - 1000)
		FROM events WHERE room_id = '!media:x';
		UPDATE event_json SET json = '[]' WHERE event_id = '$m2';
		UPDATE event_json SET json = '{"content":{"url":7,"info":{"thumbnail_url":{}}}}' WHERE event_id = '$m4'`)
	var want []string
	for i := 1000; i > 4; i -= 2 {
		if i%100 != 0 {
			want = append(want, fmt.Sprintf("mxc://far/%d", i))
		}
	}
	r := b.send(t, "GET", adminV1+"/room/!media:x/media", "")
	var got struct{ Local, Remote []string }
	require.NoError(t, json.Unmarshal([]byte(r.body), &got))
	require.Empty(t, got.Local)
	require.Equal(t, want, got.Remote)
}

// Tables of a corpus are small enough to be sampled as a whole, so that the shares of rooms
// are exact.
func TestLargestRooms(t *testing.T) {
	t.Parallel()
	database := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	handler := httpapi.New(openStore(t, database), &submitter{}, board{}, httpapi.Options{Log: slog.New(slog.DiscardHandler)})
	_, err = conn.Exec(t.Context(), `INSERT INTO access_tokens (id, user_id, token) VALUES (-1, '@admin:lab.test', 'admin')`)
	require.NoError(t, err)
	const largest = adminV1 + "/statistics/database/rooms"
	require.JSONEq(t, `{"rooms":[]}`, ask(t, handler, largest, "admin").Body.String(), "before the first ANALYZE")
	_, err = conn.Exec(t.Context(), `ANALYZE`)
	require.NoError(t, err)

	rows, err := conn.Query(t.Context(), `
		WITH shares AS (
			SELECT room_id, count(*) / sum(count(*)) OVER () * pg_total_relation_size('events') AS size FROM events GROUP BY room_id
			UNION ALL
			SELECT room_id, count(*) / sum(count(*)) OVER () * pg_total_relation_size('event_json') FROM event_json GROUP BY room_id
			UNION ALL
			SELECT room_id, count(*) / sum(count(*)) OVER () * pg_total_relation_size('state_groups_state') FROM state_groups_state GROUP BY room_id)
		SELECT room_id, sum(size)::float8 AS size FROM shares GROUP BY room_id ORDER BY size DESC LIMIT 3`)
	require.NoError(t, err)
	type room struct {
		ID   string  `json:"room_id"`
		Size float64 `json:"estimated_size"`
	}
	least, err := pgx.CollectRows(rows, pgx.RowToStructByPos[room])
	require.NoError(t, err)
	var answer struct{ Rooms []room }
	require.NoError(t, json.Unmarshal(ask(t, handler, largest, "admin").Body.Bytes(), &answer))
	require.Len(t, answer.Rooms, 10)
	sizes := map[string]float64{}
	for i, room := range answer.Rooms {
		require.True(t, i == 0 || room.Size <= answer.Rooms[i-1].Size)
		sizes[room.ID] = room.Size
	}
	for _, room := range least {
		require.Greater(t, sizes[room.ID], room.Size*0.99, room.ID)
		require.Less(t, sizes[room.ID], room.Size*2.5, room.ID) // the other tables are smaller
	}
}

// Tasks that a later Synapse, or a fault, has written are listed like others.
func TestOddTasksOfTheHomeserver(t *testing.T) {
	t.Parallel()
	b, _ := setupWith(t, `
		CREATE TABLE public.scheduled_tasks (id text, action text, status text, timestamp bigint, resource_id text, params text, result text, error text);
		INSERT INTO scheduled_tasks VALUES
			('odd', 'shutdown_and_purge_room', 'odd', 1, NULL, '{', 'no JSON', NULL),
			('list', 'purge_room', 'cancelled', 2, '!r:x', NULL, '{"kicked_users":7}', ''),
			('other', 'else', 'active', 3, '!r:x', NULL, '[1]', NULL)`)
	requireJSON(t, b.send(t, "GET", scheduledTasks, ""), 200, `{"scheduled_tasks":[
		{"id":"odd","action":"shutdown_and_purge_room","status":"odd","timestamp_ms":1,"resource_id":null,"result":null,"error":null},
		{"id":"list","action":"purge_room","status":"cancelled","timestamp_ms":2,"resource_id":"!r:x","result":{"kicked_users":7},"error":""},
		{"id":"other","action":"else","status":"active","timestamp_ms":3,"resource_id":"!r:x","result":[1],"error":null}]}`)
	requireJSON(t, b.send(t, "GET", roomsV2+"delete_status/odd", ""), 200,
		`{"delete_id":"odd","room_id":"","status":"active","shutdown_room":`+noShutdown+`}`)
	requireJSON(t, b.send(t, "GET", roomsV2+"delete_status/list", ""), 200,
		`{"delete_id":"list","room_id":"!r:x","status":"failed","error":"cancelled","shutdown_room":`+noShutdown+`}`)
	for _, unknown := range []string{roomsV2 + "delete_status/other", status + "odd", status + "%00", roomsV2 + "delete_status/%00", roomsV2 + "!r:x/delete_status"} {
		require.Equal(t, 404, b.send(t, "GET", unknown, "").status, unknown)
	}
}

// A database that Lethe has made itself lacks most of the tables about users.
func TestUsersOfAnEmbeddedDatabase(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{ServerName: "x"})
	b.requireExec(t, `
		INSERT INTO users (name, creation_ts, user_type) VALUES ('@100%:x', 7, 'bot'), ('@a_b:x', NULL, NULL);
		INSERT INTO erased_users VALUES ('@a_b:x');
		INSERT INTO devices (user_id, device_id, last_seen) VALUES ('@a_b:x', 'A', 5), ('@a_b:x', 'B', 6)`)
	names := func(query string) (names []string) {
		r := b.send(t, "GET", "/_synapse/admin/v3/users?"+query, "")
		require.Equal(t, 200, r.status, r.body)
		var answer struct{ Users []struct{ Name string } }
		require.NoError(t, json.Unmarshal([]byte(r.body), &answer))
		for _, user := range answer.Users {
			names = append(names, user.Name)
		}
		return names
	}
	require.Equal(t, []string{"@100%:x", "@a_b:x", "@admin:x", "@gone:x", "@guest:x", "@old:x", "@user:x"}, names(""))
	require.Equal(t, []string{"@locked:x"}, names("locked=true&name=LOCK"))
	require.Equal(t, []string{"@100%:x"}, names("name=%25"))
	require.Equal(t, []string{"@a_b:x"}, names("user_id=_"))
	require.Empty(t, names("name=%00"))
	require.Equal(t, []string{"@100%:x"}, names("not_user_type=&not_user_type=&limit=1"))
	require.Empty(t, names("not_user_type=%00&not_user_type=bot&from=9223372036854775807&limit=9223372036854775807"))
	const user = `{
		"name":"@a_b:x","admin":false,"deactivated":false,"locked":false,"shadow_banned":false,"creation_ts":null,
		"appservice_id":null,"consent_server_notice_sent":null,"consent_version":null,"consent_ts":null,"user_type":null,
		"is_guest":false,"suspended":false,"displayname":null,"avatar_url":null,"threepids":[],"external_ids":[],
		"erased":true,"last_seen_ts":null}`
	requireJSON(t, b.send(t, "GET", "/_synapse/admin/v2/users/@a_b:x", ""), 200, user)
	b.requireExec(t, `ALTER TABLE users DROP COLUMN suspended`) // as before schema 85
	requireJSON(t, b.send(t, "GET", "/_synapse/admin/v2/users/@a_b:x", ""), 200, user)
}
