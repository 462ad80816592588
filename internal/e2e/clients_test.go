package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The admin tools, as their sources were read: each asks what it asks, with its
// paths and bodies, and reads the answers as strictly as it does.

// An adminTool is one that talks to the fleet's api.
type adminTool struct {
	*fleet

	// escape is what the tool makes of an id in a path.
	escape func(string) string

	// rooms are the fleet's rooms by their names, and ids their ids.
	rooms map[string]adminToolRoom
	ids   map[string]string
}

// An adminToolRoom is a room that an adminTool can work on.
type adminToolRoom struct {
	ID     string   `json:"room_id"`
	Name   string   `json:"name"`
	Local  []string `json:"local"`
	Remote []string `json:"remote"`
}

// What tools make of an id: nothing, or what JavaScript's or Python's libraries
// do.
var (
	raw                = func(id string) string { return id }
	encodeURIComponent = func(id string) string { return strings.ReplaceAll(url.QueryEscape(id), "%21", "!") }
	quote              = url.QueryEscape
)

// send sends a request to the admin API as it stands, and returns the answer's
// status and body, which is JSON in any case. A body of "" is none.
func (c adminTool) send(method, path, body string) (int, map[string]any) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+c.api.address+"/_synapse/admin/"+path,
		bytes.NewReader([]byte(body)))
	require.NoError(c.t, err)
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Origin", "https://admin.example")
	response, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, "*", response.Header.Get("Access-Control-Allow-Origin"), "or no web page may read it")
	require.Equal(c.t, "application/json", response.Header.Get("Content-Type"))
	answer := map[string]any{}
	require.NoError(c.t, json.Unmarshal(text, &answer), "%s", text)
	return response.StatusCode, answer
}

// requireOK is send for a request that must be answered with 200.
func (c adminTool) requireOK(method, path, body string) map[string]any {
	c.t.Helper()
	status, answer := c.send(method, path, body)
	require.Equal(c.t, http.StatusOK, status, "%s %s: %v", method, path, answer)
	return answer
}

// A shape says of each key that must be there what its value is: "string",
// "number", "bool", "list" or "object", and "null" if that may be, too.
type shape map[string]string

// requireShape holds an object against a shape, as a strict tool does. The object
// may have other keys.
func (c adminTool) requireShape(object map[string]any, want shape) {
	c.t.Helper()
	for key, kinds := range want {
		value, ok := object[key]
		require.True(c.t, ok, "there is no %s in %v", key, object)
		kind := "null"
		switch value.(type) {
		case string:
			kind = "string"
		case float64:
			kind = "number"
		case bool:
			kind = "bool"
		case []any:
			kind = "list"
		case map[string]any:
			kind = "object"
		}
		require.Contains(c.t, strings.Fields(kinds), kind, "%s in %v", key, object)
	}
}

// requireObjects returns the members of a list of objects.
func (c adminTool) requireObjects(list any) []map[string]any {
	c.t.Helper()
	values, ok := list.([]any)
	require.True(c.t, ok, "%v is no list", list)
	objects := make([]map[string]any, len(values))
	for i, value := range values {
		objects[i], ok = value.(map[string]any)
		require.True(c.t, ok, "%v is no object", value)
	}
	return objects
}

// valuesOf returns the values that the objects of a list have for the key.
func (c adminTool) valuesOf(list any, key string) []string {
	c.t.Helper()
	var ids []string
	for _, object := range c.requireObjects(list) {
		ids = append(ids, object[key].(string))
	}
	return ids
}

// requireEnd polls a status until it is complete or failed, the only ends that some
// tools know, and returns the last answer. It checks each status on the way.
func (c adminTool) requireEnd(path string) map[string]any {
	c.t.Helper()
	var answer map[string]any
	c.eventually(time.Minute, func() bool {
		answer = c.requireOK("GET", path, "")
		if answer["status"] == "complete" || answer["status"] == "failed" {
			return true
		}
		require.Contains(c.t, []string{"scheduled", "active"}, answer["status"])
		require.NotContains(c.t, answer, "error")
		return false
	}, "%s does not end", path)
	if answer["status"] == "failed" {
		c.requireShape(answer, shape{"error": "string"})
		require.NotEmpty(c.t, answer["error"])
	} else {
		require.NotContains(c.t, answer, "error")
	}
	return answer
}

var result = shape{"kicked_users": "list", "failed_to_kick_users": "list", "local_aliases": "list", "new_room_id": "string null"}

var opaqueID = regexp.MustCompile(`^[A-Za-z]{16}$`)

// requireID returns the id that an answer has for the key.
func (c adminTool) requireID(answer map[string]any, key string) string {
	c.t.Helper()
	c.requireShape(answer, shape{key: "string"})
	require.Regexp(c.t, opaqueID, answer[key])
	return answer[key].(string)
}

func (c adminTool) rows(room string) int {
	return query[int](c.fleet, `SELECT count(*) FROM events WHERE room_id = $1`, room)
}

// newAdminTool returns a tool for an api of its own, beside a worker.
func newAdminTool(t *testing.T, escape func(string) string) adminTool {
	t.Helper()
	f, _ := corpus(t, "delete")
	f.start("worker", withKey(t))
	var shared struct {
		Rooms []adminToolRoom `json:"rooms"`
	}
	readShared(t, &shared, "corpus.json")
	c := adminTool{fleet: f, escape: escape, rooms: map[string]adminToolRoom{}, ids: map[string]string{}}
	for _, room := range shared.Rooms {
		c.rooms[room.Name], c.ids[room.Name] = room, room.ID
	}
	require.Len(t, c.ids, 10)
	return c
}

// members are the users of a room: those of this server, and all.
func (c adminTool) members(name string) (local, all []string) {
	room := c.rooms[name]
	return room.Local, slices.Concat(room.Local, room.Remote)
}

func TestSynadm038(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, raw)
	list := c.requireOK("GET", "v1/rooms?from=0&limit=3&order_by=name", "")
	c.requireShape(list, shape{"total_rooms": "number", "rooms": "list", "next_batch": "number"})
	require.EqualValues(c.t, 10, list["total_rooms"])
	require.EqualValues(c.t, 3, list["next_batch"])
	require.Len(c.t, list["rooms"], 3)
	list = c.requireOK("GET", "v1/rooms?from=9&limit=10&order_by=name&dir=b", "")
	require.NotContains(c.t, list, "next_batch")
	list = c.requireOK("GET", "v1/rooms?from=0&limit=10&search_term=arch&order_by=joined_members", "")
	require.Equal(c.t, []string{c.ids["archive"]}, c.valuesOf(list["rooms"], "room_id"))

	for _, name := range []string{"tiny", "quiet"} { // of both sorts of ids
		room := c.ids[name]
		c.requireShape(c.requireOK("GET", "v1/rooms/"+room, ""), shape{"room_id": "string"})
		_, all := c.members(name)
		got := c.requireOK("GET", "v1/rooms/"+room+"/members", "")
		require.EqualValues(c.t, len(all), got["total"])
		require.ElementsMatch(c.t, all, got["members"])

		// For the power levels it lists the rooms and deletes these keys of each.
		list := c.requireOK("GET", "v1/rooms?from=0&limit=10&order_by=name&search_term="+url.QueryEscape(room), "")
		require.Equal(c.t, []string{room}, c.valuesOf(list["rooms"], "room_id"))
		for _, key := range []string{
			"creator", "encryption", "federatable", "guest_access", "history_visibility", "join_rules",
			"joined_local_members", "joined_members", "public", "state_events", "version",
		} {
			require.Contains(c.t, c.requireObjects(list["rooms"])[0], key)
		}
		levels := 0
		for _, event := range c.requireObjects(c.requireOK("GET", "v1/rooms/"+room+"/state", "")["state"]) {
			c.requireShape(event, shape{"type": "string", "content": "object"})
			if event["type"] == "m.room.power_levels" {
				c.requireShape(event["content"].(map[string]any), shape{"users": "object"})
				levels++
			}
		}
		require.Equal(c.t, 1, levels)
	}

	// history purge, by time and by event, and its status.
	purged := c.requireID(c.requireOK("POST", "v1/purge_history/"+c.ids["quiet"], `{"purge_up_to_ts": 4102444800000}`), "purge_id")
	require.Equal(c.t, "complete", c.requireEnd("v1/purge_history_status/" + purged)["status"])
	event := query[string](c.fleet, `
		SELECT event_id FROM events WHERE room_id = $1 AND NOT outlier ORDER BY topological_ordering DESC LIMIT 1`, c.ids["quiet"])
	purged = c.requireID(c.requireOK("POST", "v1/purge_history/"+c.ids["quiet"],
		`{"delete_local_events": true, "purge_up_to_event_id": "`+event+`"}`), "purge_id")
	require.Equal(c.t, "complete", c.requireEnd("v1/purge_history_status/" + purged)["status"])

	// room delete: what it waits for is what it prints.
	local, _ := c.members("tiny")
	done := c.requireOK("DELETE", "v1/rooms/"+c.ids["tiny"],
		`{"block": true, "purge": true, "new_room_user_id": "@admin:lab.test", "room_name": "Gone", "message": "It is gone."}`)
	c.requireShape(done, result)
	require.ElementsMatch(c.t, local, done["kicked_users"])
	require.Equal(c.t, []any{}, done["failed_to_kick_users"])
	require.Equal(c.t, []any{"#tiny-1:lab.test"}, done["local_aliases"])
	require.Zero(c.t, c.rows(c.ids["tiny"]))
	require.Equal(c.t, "Gone", c.requireOK("GET", "v1/rooms/"+done["new_room_id"].(string), "")["name"])
	done = c.requireOK("DELETE", "v1/rooms/"+c.ids["quiet"], `{"block": false, "purge": true}`)
	c.requireShape(done, result)
	require.Nil(c.t, done["new_room_id"])
	require.Zero(c.t, c.rows(c.ids["quiet"]))
}

func TestSynadm2025(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, quote)
	path := "rooms/" + c.escape(c.ids["lobby"])
	status, answer := c.send("GET", "v1/rooms/"+c.escape("!nobody:lab.test"), "")
	require.Equal(c.t, http.StatusNotFound, status)
	require.Equal(c.t, "M_NOT_FOUND", answer["errcode"], "by which it tells that there is no such room")
	require.Equal(c.t, map[string]any{"block": true}, c.requireOK("PUT", "v1/"+path+"/block", `{"block": true}`))
	require.Equal(c.t, map[string]any{"block": true, "user_id": "@admin:lab.test"}, c.requireOK("GET", "v1/"+path+"/block", ""))
	require.Equal(c.t, map[string]any{"block": false}, c.requireOK("PUT", "v1/"+path+"/block", `{"block": false}`))

	deleted := c.requireID(c.requireOK("DELETE", "v2/"+path, `{"block": false, "purge": true, "force_purge": true}`), "delete_id")
	one := c.requireEnd("v2/rooms/delete_status/" + deleted)
	c.requireShape(one, shape{"status": "string", "shutdown_room": "object", "delete_id": "string", "room_id": "string"})
	require.Equal(c.t, "complete", one["status"])
	all := c.requireObjects(c.requireOK("GET", "v2/"+path+"/delete_status", "")["results"])
	require.Equal(c.t, []map[string]any{one}, all)

	// purge-empty goes through all pages, and deletes with no pause.
	list := c.requireOK("GET", "v1/rooms?from=0&limit=2&order_by=joined_local_members&dir=b&empty_rooms=false", "")
	c.requireShape(list, shape{"next_batch": "number"})
	var fewest float64
	for _, room := range c.requireObjects(list["rooms"]) {
		c.requireShape(room, shape{"room_id": "string", "joined_local_members": "number"})
		require.GreaterOrEqual(c.t, room["joined_local_members"], fewest)
		fewest = room["joined_local_members"].(float64)
	}
	require.Empty(c.t, c.requireOK("GET", "v1/rooms?from=0&limit=100&order_by=joined_local_members&dir=b&empty_rooms=true", "")["rooms"])
	var ids []string
	for i := range 20 {
		path := "v2/rooms/" + c.escape(fmt.Sprintf("!empty%d:lab.test", i))
		ids = append(ids, c.requireID(c.requireOK("DELETE", path, `{"block": false, "purge": true, "force_purge": false}`), "delete_id"))
	}
	for _, id := range ids {
		require.Equal(c.t, "complete", c.requireEnd("v2/rooms/delete_status/" + id)["status"])
	}
}

func TestKetesa(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, encodeURIComponent)
	c.requirePreflight("DELETE", "v2/rooms/"+c.escape(c.ids["ops"]))
	c.requireShape(c.requireOK("GET", "v1/server_version", ""), shape{"server_version": "string"})
	room := shape{
		"room_id": "string", "name": "string null", "canonical_alias": "string null", "joined_members": "number",
		"joined_local_members": "number", "version": "string null", "creator": "string null",
		"encryption": "string null", "federatable": "bool", "public": "bool", "join_rules": "string null",
		"guest_access": "string null", "history_visibility": "string null", "state_events": "number",
		"room_type": "string null",
	}
	for _, more := range []string{"", "&public_rooms=false", "&empty_rooms=false", "&search_term=o"} {
		list := c.requireOK("GET", "v1/rooms?from=0&limit=10&order_by=joined_members&dir=f"+more, "")
		c.requireShape(list, shape{"rooms": "list", "total_rooms": "number"})
		require.NotEmpty(c.t, list["rooms"])
		for _, r := range c.requireObjects(list["rooms"]) {
			c.requireShape(r, room)
		}
	}
	for _, name := range []string{"ops", "war-room"} {
		path := "v1/rooms/" + c.escape(c.ids[name])
		c.requireShape(c.requireOK("GET", path, ""), room)
		c.requireShape(c.requireOK("GET", path+"/members", ""), shape{"members": "list", "total": "number"})
		for _, event := range c.requireObjects(c.requireOK("GET", path+"/state", "")["state"]) {
			c.requireShape(event, shape{
				"event_id": "string", "type": "string", "content": "object", "sender": "string", "origin_server_ts": "number",
			})
		}
		tips := c.requireOK("GET", path+"/forward_extremities", "")
		require.EqualValues(c.t, len(c.requireObjects(tips["results"])), tips["count"])
		c.requireShape(c.requireObjects(tips["results"])[0], shape{
			"event_id": "string", "state_group": "number", "depth": "number", "received_ts": "number",
		})
		require.EqualValues(c.t, tips["count"].(float64)-1, c.requireOK("DELETE", path+"/forward_extremities", "")["deleted"])
		found := c.requireOK("GET", path+"/timestamp_to_event?ts=0&dir=f", "")
		c.requireShape(found, shape{"event_id": "string", "origin_server_ts": "number"})
		c.requireShape(c.requireOK("GET", path+"/block", ""), shape{"block": "bool"})
		c.requireShape(c.requireOK("PUT", path+"/block", `{"block":true}`), shape{"block": "bool"})
		c.requireShape(c.requireOK("PUT", path+"/block", `{"block":false}`), shape{"block": "bool"})
	}
	purged := c.requireID(c.requireOK("POST", "v1/purge_history/"+c.escape(c.ids["ops"]),
		`{"purge_up_to_ts":4102444800000,"delete_local_events":false}`), "purge_id")
	require.Equal(c.t, "complete", c.requireEnd("v1/purge_history_status/" + purged)["status"])

	// It deletes many rooms all at once.
	var group sync.WaitGroup
	ids := make([]string, 3)
	for i, name := range []string{"ops", "war-room", "no such room"} {
		path := "v2/rooms/" + c.escape(c.ids[name])
		if c.ids[name] == "" {
			path = "v2/rooms/" + c.escape("!unknown:lab.test")
		}
		group.Go(func() {
			_, answer := c.send("DELETE", path, `{"block":true,"purge":true,"force_purge":false}`)
			ids[i], _ = answer["delete_id"].(string)
		})
	}
	group.Wait()
	for _, id := range ids {
		require.Regexp(c.t, opaqueID, id)
		require.Equal(c.t, "complete", c.requireEnd("v2/rooms/delete_status/" + id)["status"])
	}
	require.Zero(c.t, c.rows(c.ids["ops"])+c.rows(c.ids["war-room"]))
	// What it takes for failed is a 404, and a failed one says why.
	status, _ := c.send("GET", "v2/rooms/delete_status/NobodyNobodyNobo", "")
	require.Equal(c.t, http.StatusNotFound, status)
	// A worker believes for a second what it has read of the catalog.
	_, err := c.sql.Exec(c.t.Context(), `CREATE TABLE stars (room_id text REFERENCES rooms (room_id)); SELECT pg_sleep(1.1)`)
	require.NoError(c.t, err)
	failed := c.requireID(c.requireOK("DELETE", "v2/rooms/"+c.escape(c.ids["secrets"]), `{"block":false,"purge":true,"force_purge":true}`), "delete_id")
	answer := c.requireEnd("v2/rooms/delete_status/" + failed)
	require.Equal(c.t, "failed", answer["status"])
	require.Contains(c.t, answer["error"], "stars")
	_, err = c.sql.Exec(c.t.Context(), `DROP TABLE stars`)
	require.NoError(c.t, err)

	const paging = "from=0&limit=50&order_by=timestamp&dir=b"
	tasks := c.requireObjects(c.requireOK("GET", "v1/scheduled_tasks?"+paging, "")["scheduled_tasks"])
	require.GreaterOrEqual(c.t, len(tasks), 5)
	for _, task := range tasks {
		c.requireShape(task, shape{
			"id": "string", "action": "string", "status": "string", "timestamp_ms": "number",
			"resource_id": "string null", "result": "object null", "error": "string null",
		})
		require.Contains(c.t, []string{"scheduled", "active", "complete", "failed", "cancelled"}, task["status"])
	}
	tasks = c.requireObjects(c.requireOK("GET", "v1/scheduled_tasks?action_name=shutdown_and_purge_room&status=complete&max_timestamp=4102444800000&resource_id="+
		c.escape(c.ids["ops"])+"&"+paging, "")["scheduled_tasks"])
	require.Len(c.t, tasks, 1)
	require.Equal(c.t, ids[0], tasks[0]["id"])
	c.requireShape(tasks[0]["result"].(map[string]any), result)
}

func TestSynapseAdmin(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, raw)
	c.requirePreflight("DELETE", "v2/rooms/"+c.ids["far-heavy"])
	c.requireShape(c.requireOK("GET", "v1/rooms/"+c.ids["far-heavy"], ""), shape{"room_id": "string"})
	deleted := c.requireID(c.requireOK("DELETE", "v2/rooms/"+c.ids["far-heavy"], `{"block":false}`), "delete_id")
	// It does not ask what became of it.
	require.Equal(c.t, "complete", c.requireEnd("v2/rooms/delete_status/" + deleted)["status"])
	require.Zero(c.t, c.rows(c.ids["far-heavy"]))
}

func TestElementAdmin(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, encodeURIComponent)
	// Without a key that its schema has, its page is an error.
	room := shape{
		"room_id": "string", "version": "string", "creator": "string", "joined_members": "number",
		"joined_local_members": "number", "state_events": "number", "federatable": "bool", "public": "bool",
		"name": "string null", "canonical_alias": "string null", "encryption": "string null",
		"join_rules": "string null", "guest_access": "string null", "history_visibility": "string null",
		"room_type": "string null",
	}
	count := c.requireOK("GET", "v1/rooms?limit=0", "")
	c.requireShape(count, shape{"rooms": "list", "offset": "number", "total_rooms": "number"})
	require.Empty(c.t, count["rooms"])
	for from := 0; ; from += 2 {
		list := c.requireOK("GET", fmt.Sprintf("v1/rooms?limit=2&from=%d&order_by=name&dir=f&public_rooms=false&empty_rooms=false", from), "")
		c.requireShape(list, shape{"rooms": "list", "offset": "number", "total_rooms": "number"})
		require.EqualValues(c.t, from, list["offset"])
		for _, r := range c.requireObjects(list["rooms"]) {
			c.requireShape(r, room)
			path := "v1/rooms/" + c.escape(r["room_id"].(string))
			detail := c.requireOK("GET", path, "")
			c.requireShape(detail, room)
			c.requireShape(detail, shape{
				"topic": "string null", "avatar": "string null", "joined_local_devices": "number", "forgotten": "bool",
			})
			c.requireShape(c.requireOK("GET", path+"/members", ""), shape{"members": "list", "total": "number"})
		}
		if _, more := list["next_batch"]; !more {
			break
		}
		require.Less(c.t, from, 100)
	}
	require.Empty(c.t, c.requireOK("GET", "v1/rooms?limit=10&from=0&order_by=name&dir=b&search_term=nowhere&empty_rooms=true", "")["rooms"])
}

func TestDraupnir(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, encodeURIComponent)
	words := map[string][]any{
		"guest_access":       {nil, "can_join", "forbidden"},
		"history_visibility": {nil, "invited", "joined", "shared", "world_readable"},
	}
	list := c.requireOK("GET", "v1/rooms?limit=250&from=0", "")
	for _, r := range c.requireObjects(list["rooms"]) {
		c.requireShape(r, shape{"creator": "string null"})
		for key, known := range words {
			require.Contains(c.t, known, r[key])
		}
	}
	c.requireShape(c.requireOK("GET", "v1/rooms?limit=1&from=0", ""), shape{"next_batch": "number"})
	path := "rooms/" + c.escape(c.ids["general"])
	status, _ := c.send("GET", "v1/rooms/"+c.escape("!nobody:lab.test"), "")
	require.Equal(c.t, http.StatusNotFound, status)
	require.Equal(c.t, false, c.requireOK("GET", "v1/"+path+"/block", "")["block"])
	deleted := c.requireID(c.requireOK("DELETE", "v2/"+path,
		`{"block":true,"purge":true,"message":"Closed.","new_room_user_id":"@admin:lab.test"}`), "delete_id")
	require.Equal(c.t, map[string]any{"block": true, "user_id": "@admin:lab.test"}, func() map[string]any {
		// That it is blocked, a moderator sees long before the end.
		var block map[string]any
		c.eventually(time.Minute, func() bool {
			block = c.requireOK("GET", "v1/"+path+"/block", "")
			return block["block"] == true
		}, "the room is not blocked")
		return block
	}())
	require.Equal(c.t, "complete", c.requireEnd("v2/rooms/delete_status/" + deleted)["status"])
	status, _ = c.send("GET", "v1/"+path, "")
	require.Equal(c.t, http.StatusNotFound, status, "as it tells that a room is unknown")
}

func TestMjolnir(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, raw)
	local, _ := c.members("archive")
	done := c.requireOK("DELETE", "v1/rooms/"+c.ids["archive"],
		`{"new_room_user_id":"@admin:lab.test","block":true,"message":"Closed.","room_name":"Archive, closed"}`)
	c.requireShape(done, result)
	require.ElementsMatch(c.t, local, done["kicked_users"])
	require.Zero(c.t, c.rows(c.ids["archive"]))
}

func TestCurl(t *testing.T) {
	t.Parallel()
	c := newAdminTool(t, raw)
	// The old call is gone from Synapse, too.
	status, answer := c.send("POST", "v1/rooms/"+c.ids["secrets"]+"/delete", `{}`)
	require.Equal(c.t, http.StatusNotFound, status)
	require.Equal(c.t, "M_UNRECOGNIZED", answer["errcode"])
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodDelete,
		"http://"+c.api.address+"/_synapse/admin/v2/rooms/"+c.ids["secrets"]+"?access_token="+c.token, strings.NewReader(`{}`))
	require.NoError(c.t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded") // that is what -d says
	response, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	require.NoError(c.t, json.NewDecoder(response.Body).Decode(&answer))
	require.NoError(c.t, response.Body.Close())
	require.Equal(c.t, http.StatusOK, response.StatusCode, "%v", answer)
	require.Equal(c.t, "complete", c.requireEnd("v2/rooms/delete_status/" + c.requireID(answer, "delete_id"))["status"])
	require.Zero(c.t, c.rows(c.ids["secrets"]))
}

// requirePreflight asks whether a web page may send the request, as its browser does.
func (c adminTool) requirePreflight(method, path string) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodOptions, "http://"+c.api.address+"/_synapse/admin/"+path, http.NoBody)
	require.NoError(c.t, err)
	request.Header.Set("Origin", "https://admin.example")
	request.Header.Set("Access-Control-Request-Method", method)
	request.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
	response, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	require.NoError(c.t, response.Body.Close())
	require.Equal(c.t, http.StatusNoContent, response.StatusCode)
	require.Equal(c.t, "*", response.Header.Get("Access-Control-Allow-Origin"))
	require.Contains(c.t, response.Header.Get("Access-Control-Allow-Methods"), method)
	for _, header := range []string{"Authorization", "Content-Type"} {
		require.Contains(c.t, response.Header.Get("Access-Control-Allow-Headers"), header)
	}
}

// A delete that nobody can see the end of would be polled for ever.
func TestCancelledDeleteEndsThePolling(t *testing.T) {
	t.Parallel()
	f, deletes := corpus(t, "delete")
	c := adminTool{fleet: f}
	id := f.delete(deletes[0].Room, map[string]any{})
	_, err := f.sql.Exec(t.Context(), `UPDATE lethe.jobs SET state = 'cancelled', ended_at = now() WHERE id = $1`, id)
	require.NoError(t, err)
	answer := c.requireEnd("v2/rooms/delete_status/" + id)
	require.Equal(t, "failed", answer["status"])
	require.Equal(t, "cancelled", answer["error"])
	c.requireShape(answer["shutdown_room"].(map[string]any), result)
}

// With the dialect of the first clients their closed list of words is enough.
func TestSeedDialectsWordsAreTheFirstClients(t *testing.T) {
	t.Parallel()
	f, _ := corpus(t, "delete")
	f.on(f.redis.URL(), "LETHE_DIALECT=seed")
	f.start("worker", "LETHE_WORKER_BATCH_EVENTS=5", withKey(t))
	room := query[string](f, `SELECT room_id FROM rooms WHERE room_id LIKE '!KBGb%'`)
	id := f.delete(room, map[string]any{})
	var words []string
	f.eventually(time.Minute, func() bool {
		word := f.deleteStatus(id)["status"].(string)
		words = append(words, word)
		return word == "complete" || word == "failed"
	}, "delete %s has not ended", id)
	require.Equal(t, "complete", words[len(words)-1])
	require.Subset(t, []string{"purging", "shutting_down", "complete"}, words)
}
