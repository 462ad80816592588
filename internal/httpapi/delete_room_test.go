package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/tasks"
)

const (
	roomsV1 = "/_synapse/admin/v1/rooms/"
	roomsV2 = "/_synapse/admin/v2/rooms/"

	// hashRoom is the id of a room of version 12.
	hashRoom = "!jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI"

	accepted    = `{"delete_id":"` + submittedDelete + `"}`
	nothingDone = `{"kicked_users":[],"failed_to_kick_users":[],"local_aliases":[],"new_room_id":null}`

	wordsOfName    = "Content Violation Notification"
	wordsOfMessage = "Sharing illegal content on this server is not permitted and rooms in violation will be blocked."
)

// setupDeletes is setup for a server that knows the room !room:x, of which
// !busy:x is being deleted, and on which a delete has ended when it is submitted.
func setupDeletes(t *testing.T, options httpapi.Options) *bundle {
	t.Helper()
	options.ServerName = "x"
	b := setup(t, options)
	b.requireExec(t, `INSERT INTO rooms (room_id) VALUES ('!room:x'), ('!busy:x')`)
	b.requireExec(t, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester) VALUES
			('BusyBusyBusyBusy', 'delete_room', '!busy:x', '{}', '@admin:x'),
			('PastPastPastPast', 'purge_history', '!room:x', '{}', '@admin:x')`)
	b.jobs[submittedDelete] = jobs.Status{Kind: jobs.DeleteRoom, State: journal.Complete}
	return b
}

// aDelete is what a body of {} asks for.
func aDelete() tasks.DeleteRoom {
	return tasks.DeleteRoom{
		Room: "!room:x", Requester: "@admin:x", RoomName: wordsOfName, Message: wordsOfMessage, Purge: true,
	}
}

func TestDeleteRoom(t *testing.T) {
	t.Parallel()
	b := setupDeletes(t, httpapi.Options{PurgeDelay: time.Minute})
	for body, change := range map[string]func(*tasks.DeleteRoom){
		`{}`:                            func(*tasks.DeleteRoom) {},
		` { } `:                         func(*tasks.DeleteRoom) {},
		`{"block":false,"purge":true}`:  func(*tasks.DeleteRoom) {},
		`{"BLOCK":true,"Purge":"x"}`:    func(*tasks.DeleteRoom) {},
		`{"delete_id":1,"x":[{}]}`:      func(*tasks.DeleteRoom) {},
		`{"block":true}`:                func(d *tasks.DeleteRoom) { d.Block = true },
		`{"block":false,"block":true}`:  func(d *tasks.DeleteRoom) { d.Block = true },
		`{"purge":false}`:               func(d *tasks.DeleteRoom) { d.Purge = false },
		`{"force_purge":true}`:          func(d *tasks.DeleteRoom) { d.ForcePurge = true },
		`{"force_purge":false}`:         func(*tasks.DeleteRoom) {},
		`{"new_room_user_id":null}`:     func(*tasks.DeleteRoom) {},
		`{"room_name":null}`:            func(*tasks.DeleteRoom) {},
		`{"room_name":"","message":""}`: func(*tasks.DeleteRoom) {},
		`{"message":null}`:              func(*tasks.DeleteRoom) {},
		`{"room_name":"N"}`:             func(d *tasks.DeleteRoom) { d.RoomName = "N" },
		`{"message":" "}`:               func(d *tasks.DeleteRoom) { d.Message = " " },
		`{"message":"é\u00e9"}`:         func(d *tasks.DeleteRoom) { d.Message = "éé" },
		// What no database can hold.
		`{"message":"a\u0000b","room_name":"\ud800"}`: func(d *tasks.DeleteRoom) { d.Message, d.RoomName = "a\uFFFDb", "\uFFFD" },
		`{"purge":false,"force_purge":true}`:          func(d *tasks.DeleteRoom) { d.Purge = false },
		`{"new_room_user_id":"@nobody:x"}`:            func(d *tasks.DeleteRoom) { d.NewRoomUser = "@nobody:x" },
		`{"new_room_user_id":"@:x"}`:                  func(d *tasks.DeleteRoom) { d.NewRoomUser = "@:x" },
		`{"block":true,"force_purge":true,"new_room_user_id":"@new:x","room_name":"N","message":"M"}`: func(d *tasks.DeleteRoom) {
			d.Block, d.ForcePurge, d.NewRoomUser, d.RoomName, d.Message = true, true, "@new:x", "N", "M"
		},
	} {
		want := aDelete()
		change(&want)
		requireJSON(t, b.send(t, "DELETE", roomsV1+"!room:x", body), 200, nothingDone)
		require.Equal(t, []tasks.DeleteRoom{want}, b.tasks.takenDeletes(), body)
		// The caller of a synchronous one waits as it is.
		want.PurgeDelay = time.Minute
		requireJSON(t, b.send(t, "DELETE", roomsV2+"!room:x", body), 200, accepted)
		require.Equal(t, []tasks.DeleteRoom{want}, b.tasks.takenDeletes(), body)
	}
}

func TestDeleteRoomIDs(t *testing.T) {
	t.Parallel()
	b := setupDeletes(t, httpapi.Options{})
	for path, id := range map[string]string{
		"!room:x":            "!room:x",
		"%21room%3Ax":        "!room:x",
		"!room%3ax":          "!room:x",
		"%21%72oom:x":        "!room:x",
		"!unknown:far.test":  "!unknown:far.test",
		"!r:x:8448":          "!r:x:8448",
		"!r:[::1]:99999":     "!r:[::1]:99999",
		"!r:%5B::1%5D":       "!r:[::1]",
		"!:x":                "!:x",
		"!a%2Fb:x":           "!a/b:x",
		"!a%252Fb:x":         "!a%2Fb:x",
		"!a+b%20c:x":         "!a+b c:x",
		"!%C3%BC:x":          "!ü:x",
		"!%FF:x":             "!\uFFFD:x",
		hashRoom:             hashRoom,
		"%21" + hashRoom[1:]: hashRoom,
	} {
		for _, version := range []string{roomsV1, roomsV2} {
			require.Equal(t, 200, b.send(t, "DELETE", version+path, `{}`).status, path)
			require.Equal(t, id, b.tasks.takenDeletes()[0].Room, path)
		}
		r := b.send(t, "GET", roomsV2+path+"/delete_status", "")
		requireJSON(t, r, 404, refusal("M_NOT_FOUND", "No delete task for room_id '"+id+"' found"))
	}
	long := "!" + strings.Repeat("x", 300) + ":x"
	for path, id := range map[string]string{
		"":                   "",
		"room:x":             "room:x",
		"%23alias:x":         "#alias:x",
		"@user:x":            "@user:x",
		"!":                  "!",
		"!room":              "!room",
		"!room:":             "!room:",
		"!room:x:":           "!room:x:",
		"!room:x:y":          "!room:x:y",
		"!room:x%2Fy":        "!room:x/y",
		"!room:%C3%BC":       "!room:ü",
		"!ro%00om:x":         "!ro\x00om:x",
		"%FF":                "\uFFFD",
		hashRoom[:43]:        hashRoom[:43],
		hashRoom + "A":       hashRoom + "A",
		hashRoom[:43] + "+":  hashRoom[:43] + "+",
		hashRoom[:43] + "%0": "",
		long:                 long,
	} {
		for _, version := range []string{roomsV1, roomsV2} {
			if strings.HasSuffix(path, "%0") { // which no client of Go's sends
				r := b.raw(t, "DELETE "+version+path+" HTTP/1.1\nHost: x\nAuthorization: Bearer admin\nContent-Length: 2\n\n{}")
				require.Equal(t, 400, r.status)
				continue
			}
			requireJSON(t, b.send(t, "DELETE", version+path, `{}`), 400, refusal("M_UNKNOWN", id+" is not a legal room ID"))
		}
		if path != "" && !strings.HasSuffix(path, "%0") {
			r := b.send(t, "GET", roomsV2+path+"/delete_status", "")
			requireJSON(t, r, 400, refusal("M_UNKNOWN", id+" is not a legal room ID"))
		}
		require.Empty(t, b.tasks.takenDeletes())
	}
}

func TestDeleteRoomRefusals(t *testing.T) {
	t.Parallel()
	b := setupDeletes(t, httpapi.Options{})
	const (
		notJSON     = `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`
		notObject   = `{"errcode":"M_BAD_JSON","error":"Content must be a JSON object."}`
		block       = `{"errcode":"M_BAD_JSON","error":"Param 'block' must be a boolean, if given"}`
		purge       = `{"errcode":"M_BAD_JSON","error":"Param 'purge' must be a boolean, if given"}`
		force       = `{"errcode":"M_BAD_JSON","error":"Param 'force_purge' must be a boolean, if given"}`
		illegal     = `{"errcode":"M_UNKNOWN","error":"room is not a legal room ID"}`
		busy        = `{"errcode":"M_UNKNOWN","error":"Purge already in progress for !busy:x"}`
		notAdmin    = `{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}`
		badRoomName = `"room_name":1`
	)
	user := func(id string) string { return refusal("M_UNKNOWN", "User must be our own: "+id) }
	type test struct {
		room, body string
		status     int
		want       string
	}
	tests := []test{
		// The body comes first of all.
		{"room", ``, 400, notJSON},
		{"room", ` `, 400, notJSON},
		{"!room:x", `{`, 400, notJSON},
		{"!room:x", `{"block":True}`, 400, notJSON},
		{"!room:x", `{"block":NaN}`, 400, notJSON},
		{"!room:x", "{\"message\":\"\xff\"}", 400, notJSON},
		{"!room:x", strings.Repeat(`{"a":`, 50_000) + "1" + strings.Repeat("}", 50_000), 400, notJSON},
		{"room", `null`, 400, notObject},
		{"room", `[]`, 400, notObject},
		{"room", `"{}"`, 400, notObject},
		{"!room:x", `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, 413, `{"errcode":"M_TOO_LARGE","error":"Request content is too large"}`},

		// Then the flags in their order, also where they do not matter.
		{"room", `{"force_purge":1,"purge":1,"block":1}`, 400, block},
		{"room", `{"force_purge":1,"purge":1}`, 400, purge},
		{"room", `{"force_purge":1,"purge":false}`, 400, force},
		{"!busy:x", `{"force_purge":1,"new_room_user_id":"@far:away"}`, 400, force},

		// Then the room, whatever the user.
		{"room", `{}`, 400, illegal},
		{"room", `{"new_room_user_id":"@far:away"}`, 400, illegal},
		{"room", `{"new_room_user_id":7}`, 400, illegal},

		{"!room:x", `{"new_room_user_id":7}`, 400, refusal("M_BAD_JSON", "Param 'new_room_user_id' must be a string, if given")},
		{"!room:x", `{"new_room_user_id":["@new:x"]}`, 400, refusal("M_BAD_JSON", "Param 'new_room_user_id' must be a string, if given")},
		{"!room:x", `{` + badRoomName + `}`, 400, refusal("M_BAD_JSON", "Param 'room_name' must be a string, if given")},
		{"!room:x", `{"room_name":false}`, 400, refusal("M_BAD_JSON", "Param 'room_name' must be a string, if given")},
		{"!room:x", `{"message":{}}`, 400, refusal("M_BAD_JSON", "Param 'message' must be a string, if given")},
		{"!room:x", `{"message":["x"],` + badRoomName + `}`, 400, refusal("M_BAD_JSON", "Param 'room_name' must be a string, if given")},
	}
	for _, value := range []string{`null`, `0`, `1`, `"true"`, `""`, `[]`, `[true]`, `{}`} {
		tests = append(tests,
			test{"!room:x", `{"block":` + value + `}`, 400, block},
			test{"!room:x", `{"purge":` + value + `}`, 400, purge},
			test{"!room:x", `{"force_purge":` + value + `}`, 400, force})
	}
	for _, id := range []string{
		"", " ", "x", "@new", "new:x", "x:x", "@new:far", "@new:X", "@new:x:80", "@new:x ", " @new:x", "@new:x:x",
		"@new:y:x", "#new:x", "@n\x00ew:x", "@" + strings.Repeat("n", 300) + ":x",
	} {
		encoded, err := json.Marshal(id)
		require.NoError(t, err)
		tests = append(tests, test{"!room:x", `{"new_room_user_id":` + string(encoded) + `}`, 400, user(id)})
	}
	for _, test := range tests {
		t.Run(test.room+" "+test.body[:min(len(test.body), 60)], func(t *testing.T) {
			t.Parallel()
			for _, version := range []string{roomsV1, roomsV2} {
				requireJSON(t, b.send(t, "DELETE", version+test.room, test.body), test.status, test.want)
			}
		})
	}
	t.Run("differences", func(t *testing.T) {
		t.Parallel()
		// Only one that does not wait is refused for another, and before its user
		// is looked at. A room that nobody knows needs no user.
		const far = `{"new_room_user_id":"@far:away"}`
		requireJSON(t, b.send(t, "DELETE", roomsV2+"!busy:x", `{}`), 400, busy)
		requireJSON(t, b.send(t, "DELETE", roomsV2+"!busy:x", far), 400, busy)
		requireJSON(t, b.send(t, "DELETE", roomsV1+"!busy:x", far), 400, user("@far:away"))
		requireJSON(t, b.send(t, "DELETE", roomsV2+"!unknown:x", far), 400, user("@far:away"))
		requireJSON(t, b.send(t, "DELETE", roomsV1+"!unknown:x", far), 200, nothingDone)
		require.Empty(t, b.tasks.takenDeletes()[0].NewRoomUser)
	})
	t.Run("no admin", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{
			"DELETE " + roomsV1 + "room", "DELETE " + roomsV2 + "room",
			"GET " + roomsV2 + "room/delete_status", "GET " + roomsV2 + "delete_status/x",
		} {
			requireJSON(t, b.raw(t, path+" HTTP/1.1\nHost: x\nAuthorization: Bearer user\nContent-Length: 1\n\n{"), 403, notAdmin)
		}
	})
	t.Run("none of ours", func(t *testing.T) {
		t.Parallel()
		for path, status := range map[string]int{
			"GET " + roomsV2 + "!room:x": 405, "POST " + roomsV2 + "!room:x": 405, "PUT " + roomsV1 + "!room:x": 405,
			"DELETE " + roomsV2 + "!room:x/delete_status": 405, "DELETE " + roomsV2 + "delete_status/x": 405,
			"POST " + roomsV1 + "!room:x/delete": 404, "DELETE " + roomsV2 + "!room:x/": 404,
		} {
			method, path, _ := strings.Cut(path, " ")
			requireJSON(t, b.send(t, method, path, `{}`), status, refusal("M_UNRECOGNIZED", "Unrecognized request"))
		}
	})
}

func TestNobodyIsOursWithoutAServerName(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	requireJSON(t, b.send(t, "DELETE", roomsV2+"!room:x", `{"new_room_user_id":"@new:"}`), 400,
		refusal("M_UNKNOWN", "User must be our own: @new:"))
}

func TestDeleteRoomOfABusyRoom(t *testing.T) {
	t.Parallel()
	for _, seed := range []bool{false, true} {
		b := setupDeletes(t, httpapi.Options{SeedDialect: seed})
		require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!room:x", `{}`).status)
		require.Equal(t, seed, b.tasks.takenDeletes()[0].Exclusive)
		require.Equal(t, 200, b.send(t, "DELETE", roomsV1+"!room:x", `{}`).status)
		require.False(t, b.tasks.takenDeletes()[0].Exclusive, "one that is waited for waits for others")

		// Another one was quicker, after ours was looked at.
		b.tasks.instead = func(context.Context) error { return fmt.Errorf("submit: %w", journal.ErrRoomBusy) }
		requireJSON(t, b.send(t, "DELETE", roomsV2+"!room:x", `{}`), 400,
			refusal("M_UNKNOWN", map[bool]string{false: "Purge", true: "History purge"}[seed]+" already in progress for !room:x"))
		b.tasks.instead = func(context.Context) error { return errors.New("the secret is out") }
		for _, version := range []string{roomsV1, roomsV2} {
			requireJSON(t, b.send(t, "DELETE", version+"!room:x", `{}`), 500, refusal("M_UNKNOWN", "Internal server error"))
		}
	}
}

// A job that waits for something else than its turn says so.
func TestStatusSaysWhatAJobWaitsFor(t *testing.T) {
	t.Parallel()
	b := setupDeletes(t, httpapi.Options{})
	for id, waits := range map[string]string{"WaitingForServer": "the homeserver has not told other servers", "WaitingForItTurn": ""} {
		checkpoint, room := `{"phase":"shutting_down",`+partly+`}`, "!"+id+":x"
		b.jobs[id] = jobs.Status{Kind: jobs.DeleteRoom, Room: room, State: journal.Queued, WaitsFor: waits, Progress: checkpoint}
		b.requireExec(t, `
			INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, checkpoint, waits_for, waits_since)
			VALUES ($1, 'delete_room', $2, '{}', '@admin:x', $3, nullif($4, ''), CASE WHEN $4 <> '' THEN now() END)`, id, room, checkpoint, waits)
		for _, path := range []string{"delete_status/" + id, room + "/delete_status"} {
			body := b.send(t, "GET", roomsV2+path, "").body
			require.Equal(t, waits != "", strings.Contains(body, `"waits_for":"`+waits+`"`), body)
		}
	}
}

// states are what a delete's status is in each state, in both dialects.
var states = []struct {
	state      journal.State
	checkpoint string
	reason     string

	// now and seed are the status, with the phase after a space. shutdown is what the shutdown has done, and text the error.
	now, seed, shutdown, text string
}{
	{state: journal.Queued, now: "scheduled", seed: "purging"},
	{state: journal.Queued, checkpoint: `null`, now: "scheduled", seed: "purging"},
	{state: journal.Running, now: "active", seed: "purging"},
	{state: journal.Running, checkpoint: `{"phase":"shutting_down","shutdown_room":{"kicked_users":null}}`, now: "active shutting_down", seed: "shutting_down shutting_down"},
	{state: journal.Running, checkpoint: `{"phase":"shutting_down",` + partly + `}`, now: "active shutting_down", seed: "shutting_down shutting_down", shutdown: partly},
	{state: journal.Queued, checkpoint: `{"phase":"shutting_down",` + partly + `}`, now: "active shutting_down", seed: "shutting_down shutting_down", shutdown: partly},
	{state: journal.Running, checkpoint: `{"phase":"purging",` + partly + `}`, now: "active purging", seed: "purging purging", shutdown: partly},
	{state: journal.Queued, checkpoint: `{"phase":"purging",` + partly + `}`, now: "active purging", seed: "purging purging", shutdown: partly},
	{state: journal.Complete, checkpoint: `{"phase":"purging",` + partly + `}`, now: "complete", seed: "complete", shutdown: partly},
	{state: journal.Complete, checkpoint: `{"phase":"purging",` + partly + `,` + someLeft + `,"sample":{"events":["$e"]}}`, now: "complete", seed: "complete", shutdown: partly + `,` + someLeft},
	{state: journal.Complete, checkpoint: `{"phase":"purging",` + partly + `,"left":[],"not_checked":["room_tags"]}`, now: "complete", seed: "complete", shutdown: partly + `,"left":[],"not_checked":["room_tags"]`},
	{state: journal.Complete, checkpoint: `{"phase":"purging",` + partly + `,"check_skipped":"the check took longer than 2s"}`, now: "complete", seed: "complete", shutdown: partly + `,"check_skipped":"the check took longer than 2s"`},
	{state: journal.Failed, reason: "400: <why>", now: "failed", seed: "failed", text: "400: <why>"},
	{state: journal.Failed, reason: "why", checkpoint: `{"phase":"shutting_down",` + partly + `}`, now: "failed", seed: "failed", shutdown: partly, text: "why"},
	{state: journal.Cancelled, now: "failed", seed: "failed", text: "cancelled"},
	{state: journal.Cancelled, checkpoint: `{"phase":"purging",` + partly + `}`, now: "failed", seed: "failed", shutdown: partly, text: "cancelled"},
}

const partly = `"shutdown_room":{"kicked_users":["@a:x"],"failed_to_kick_users":["@b:x"],"local_aliases":["#c:x"],"new_room_id":"!d:x"}`

// someLeft is what the check after a delete has found.
const someLeft = `"left":[{"table":"room_depth","rows":100,"more":true,"column":"room_id","keys":["!room:x"],"why":"why"}],` +
	`"kept":[{"table":"blocked_rooms","rows":1,"column":"room_id","keys":["!room:x"],"why":"the block outlives the room"}],"not_checked":["room_tags"]`

// deleteBody is the status of a delete as it should be served.
func deleteBody(id, status, shutdown, text string) string {
	status, phase, ok := strings.Cut(status, " ")
	body := `{"delete_id":"` + id + `","room_id":"!room:x","status":"` + status + `"`
	if ok {
		body += `,"phase":"` + phase + `"`
	}
	if text != "" {
		encoded, _ := json.Marshal(text)
		body += `,"error":` + string(encoded)
	}
	if shutdown == "" {
		shutdown = `"shutdown_room":` + nothingDone
	}
	return body + `,` + shutdown + `}`
}

func TestDeleteStatus(t *testing.T) {
	t.Parallel()
	const path = roomsV2 + "delete_status/"
	for _, seed := range []bool{false, true} {
		b := setup(t, httpapi.Options{SeedDialect: seed})
		for _, s := range states {
			b.jobs["id"] = jobs.Status{
				Kind: jobs.DeleteRoom, Room: "!room:x", State: s.state, Error: s.reason, Progress: s.checkpoint,
			}
			want := s.now
			if seed {
				want = s.seed
			}
			requireJSON(t, b.send(t, "GET", path+"id", ""), 200, deleteBody("id", want, s.shutdown, s.text))
		}
		head := b.send(t, "HEAD", path+"id", "")
		require.Equal(t, 200, head.status)
		require.Empty(t, head.body)
	}

	b := setup(t, httpapi.Options{})
	b.jobs["purge"] = jobs.Status{Kind: jobs.PurgeHistory, State: journal.Running}
	b.jobs["delete"] = jobs.Status{Kind: jobs.DeleteRoom, State: journal.Running, Progress: `{"phase":7}`}
	for sent, id := range map[string]string{
		"": "", "nobody": "nobody", "purge": "purge", "%00": "\x00", "%FF": "\uFFFD", "a%2Fb": "a/b", "!room:x": "!room:x",
		"delete_status": "delete_status",
	} {
		requireJSON(t, b.send(t, "GET", path+sent, ""), 404, refusal("M_NOT_FOUND", "delete id '"+id+"' not found"))
	}
	requireJSON(t, b.send(t, "GET", status+"delete", ""), 404, refusal("M_NOT_FOUND", "purge id 'delete' not found"))
	for _, id := range []string{"delete", "broken"} {
		requireJSON(t, b.send(t, "GET", path+id, ""), 500, refusal("M_UNKNOWN", "Internal server error"))
	}
}

func TestDeletesOfARoom(t *testing.T) {
	t.Parallel()
	for _, seed := range []bool{false, true} {
		b := setup(t, httpapi.Options{SeedDialect: seed, StatusTTL: time.Hour})
		const path = roomsV2 + "!room:x/delete_status"
		const none = `No delete task for room_id '!room:x' found`
		requireJSON(t, b.send(t, "GET", path, ""), 404, refusal("M_NOT_FOUND", none))
		insert := func(id, kind, room string, state journal.State, checkpoint, reason string, changed time.Duration) {
			b.requireExec(t, `
				INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, checkpoint, error, updated_at, ended_at, heartbeat_at)
				VALUES ($1, $2, $3, '{}', '@admin:x', $4, nullif($5, '')::jsonb, nullif($6, ''), now() - $7::interval,
				        CASE WHEN $4 IN ('complete', 'failed', 'cancelled') THEN now() - $7::interval END,
				        CASE WHEN $4 = 'running' THEN now() END)`,
				id, kind, room, string(state), checkpoint, reason, changed)
		}
		insert("OfAnotherSortOfA", "purge_history", "!room:x", journal.Complete, "", "", time.Minute)
		insert("OfAnotherRoomAaa", "delete_room", "!rooms:x", journal.Complete, "", "", time.Minute)
		insert("ThatEndedBeforeA", "delete_room", "!room:x", journal.Complete, "", "", time.Hour+time.Minute)
		requireJSON(t, b.send(t, "GET", path, ""), 404, refusal("M_NOT_FOUND", none))

		var results, tasks []string
		for i, s := range states {
			// One that has not ended stays, however old it is. There is but one of
			// these, so one after the other is looked at.
			id := fmt.Sprintf("Aaaaaaaaaaaaaaa%c", 'a'+i)
			want := s.now
			if seed {
				want = s.seed
			}
			body := deleteBody(id, want, s.shutdown, s.text)
			if s.state.Ended() {
				// Those that changed last come last.
				insert(id, "delete_room", "!room:x", s.state, s.checkpoint, s.reason, time.Minute*time.Duration(len(states)-i))
				results = append(results, body)
				tasks = append(tasks, id)
				requireJSON(t, b.send(t, "GET", path, ""), 200, `{"results":[`+strings.Join(results, ",")+`]}`)
				continue
			}
			insert(id, "delete_room", "!room:x", s.state, s.checkpoint, s.reason, 48*time.Hour)
			requireJSON(t, b.send(t, "GET", path, ""), 200, `{"results":[`+body+`]}`)
			b.requireExec(t, `DELETE FROM lethe.jobs WHERE id = $1`, id)
		}
		head := b.send(t, "HEAD", path, "")
		require.Equal(t, 200, head.status)

		// The same in the words of the task list, which forgets later.
		var list struct {
			Tasks []struct {
				ID     string          `json:"id"`
				Action string          `json:"action"`
				Status string          `json:"status"`
				Room   string          `json:"resource_id"`
				Result json.RawMessage `json:"result"`
				Error  *string         `json:"error"`
			} `json:"scheduled_tasks"`
		}
		r := b.send(t, "GET", "/_synapse/admin/v1/scheduled_tasks?action_name=shutdown_and_purge_room&resource_id=%21room%3Ax", "")
		require.NoError(t, json.Unmarshal([]byte(r.body), &list), r.body)
		var ids []string
		for _, task := range list.Tasks {
			ids = append(ids, task.ID)
			require.Equal(t, "shutdown_and_purge_room", task.Action)
			require.Equal(t, "!room:x", task.Room)
			require.Contains(t, []string{"complete", "failed", "cancelled"}, task.Status)
			require.Equal(t, task.Status == "failed", task.Error != nil)
			if string(task.Result) == "null" {
				continue
			}
			// The result has what was left too.
			var result, want map[string]any
			require.NoError(t, json.Unmarshal(task.Result, &result))
			s := states[int(task.ID[len(task.ID)-1]-'a')]
			require.NoError(t, json.Unmarshal([]byte("{"+s.shutdown+"}"), &want))
			for field, value := range want["shutdown_room"].(map[string]any) {
				want[field] = value
			}
			delete(want, "shutdown_room")
			require.Equal(t, want, result)
		}
		require.Equal(t, append([]string{"ThatEndedBeforeA"}, tasks...), ids)
	}
}

// requireEnd ends a delete as a worker would.
func (b *real) requireEnd(t *testing.T, id string, state journal.State, checkpoint, reason string) {
	t.Helper()
	b.requireExec(t, `
		UPDATE lethe.jobs SET state = $2, checkpoint = nullif($3, '')::jsonb, error = nullif($4, ''), ended_at = now()
		WHERE id = $1`, id, string(state), checkpoint, reason)
	job, err := journal.New(b.store).Job(t.Context(), id)
	require.NoError(t, err)
	b.board.Post(t.Context(), jobs.StatusOf(job))
}

// requireOpen waits until the room has an unfinished delete other than the given one,
// and returns its id.
func (b *real) requireOpen(t *testing.T, not string) string {
	t.Helper()
	var id string
	require.Eventually(t, func() bool {
		job, err := journal.New(b.store).OpenJob(t.Context(), jobs.DeleteRoom, "!room:x")
		id = job.ID
		return err == nil && id != not
	}, time.Minute, 10*time.Millisecond)
	return id
}

// requireBegin sends a request and returns a channel for its reply.
func (b *real) requireBegin(t *testing.T, ctx context.Context, path, body string) <-chan reply {
	replies := make(chan reply, 1)
	request, err := http.NewRequestWithContext(ctx, http.MethodDelete, b.server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+admin)
	go func() {
		defer close(replies)
		response, err := b.server.Client().Do(request)
		if err != nil {
			return
		}
		defer func() { _ = response.Body.Close() }()
		var text strings.Builder
		if err := response.Write(&text); err == nil {
			_, body, _ := strings.Cut(text.String(), "\r\n\r\n")
			replies <- reply{response.StatusCode, response.Header, body}
		}
	}()
	return replies
}

func (b *real) requireCount(t *testing.T) int {
	t.Helper()
	list, err := journal.New(b.store).ListJobs(t.Context(), journal.JobList{
		Kinds:  []journal.Kind{jobs.PurgeHistory, jobs.DeleteRoom},
		States: []journal.State{journal.Queued, journal.Running, journal.Complete, journal.Failed, journal.Cancelled},
		Limit:  1000, EndedWithin: time.Hour,
	})
	require.NoError(t, err)
	return len(list)
}

func TestSynchronousDeleteIsJoined(t *testing.T) {
	t.Parallel()
	for _, seed := range []bool{false, true} {
		b := setupReal(t, httpapi.Options{SeedDialect: seed, ServerName: "x"})
		const body = `{"block":true,"message":"M"}`
		if !seed { // one that nobody waits for is as good
			require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!room:x", body).status)
			<-b.observed
		}
		// It goes on if the caller does not.
		ctx, hangUp := context.WithCancel(t.Context())
		left := b.requireBegin(t, ctx, roomsV1+"!room:x", body)
		b.board.requireAsked(t, 1)
		id := b.requireOpen(t, "")
		hangUp()
		_, ok := <-left
		require.False(t, ok)
		require.Equal(t, observed{roomsV1 + ":room_id", "DELETE", 499}, <-b.observed)
		require.NotContains(t, b.log.String(), "level=ERROR")

		same := b.requireBegin(t, t.Context(), roomsV1+"!room:x", body)
		reordered := b.requireBegin(t, t.Context(), roomsV1+"%21room%3Ax", `{"message":"M","force_purge":false,"block":true,"purge":true}`)
		b.board.requireAsked(t, 3)
		require.Equal(t, id, b.requireOpen(t, ""))
		b.requireEnd(t, id, journal.Complete, `{"phase":"purging",`+partly+`}`, "")
		for _, replies := range []<-chan reply{same, reordered} {
			requireJSON(t, <-replies, 200, strings.TrimPrefix(partly, `"shutdown_room":`))
		}
		require.Equal(t, 1, b.requireCount(t))
	}
}

// What differs in a parameter is another delete, which waits.
func TestSynchronousDeleteWaitsForAnother(t *testing.T) {
	t.Parallel()
	for _, seed := range []bool{false, true} {
		b := setupReal(t, httpapi.Options{SeedDialect: seed, ServerName: "x"})
		b.requireExec(t, `INSERT INTO rooms (room_id) VALUES ('!room:x')`)
		require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!room:x", `{}`).status)
		id := b.requireOpen(t, "")
		for i, body := range []string{
			`{"block":true}`, `{"purge":false}`, `{"force_purge":true}`, `{"message":"M"}`, `{"room_name":"N"}`, `{"new_room_user_id":"@new:x"}`,
		} {
			replies := b.requireBegin(t, t.Context(), roomsV1+"!room:x", body)
			b.board.requireAsked(t, i+1)
			require.Equal(t, id, b.requireOpen(t, ""))
			b.requireEnd(t, id, journal.Failed, "", "whatever") // what became of it is not ours to say
			second := b.requireOpen(t, id)
			b.requireEnd(t, second, journal.Complete, "", "")
			requireJSON(t, <-replies, 200, nothingDone)

			require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!room:x", `{}`).status)
			id = b.requireOpen(t, "")
		}
	}
}

// A history purge is waited for by the job, not by its caller.
func TestSynchronousDeleteIsNotRefusedForAHistoryPurge(t *testing.T) {
	t.Parallel()
	b := setupReal(t, httpapi.Options{SeedDialect: true})
	require.Equal(t, 200, b.send(t, "POST", room+"/$one", "").status)
	requireJSON(t, b.send(t, "DELETE", roomsV2+"!room:x", `{}`), 400, refusal("M_UNKNOWN", "History purge already in progress for !room:x"))
	replies := b.requireBegin(t, t.Context(), roomsV1+"!room:x", `{}`)
	b.requireEnd(t, b.requireOpen(t, ""), journal.Complete, "", "")
	requireJSON(t, <-replies, 200, nothingDone)
}

func TestSynchronousDeleteIsWaitedForPatiently(t *testing.T) {
	t.Parallel()
	b := setupReal(t, httpapi.Options{Timeout: time.Second, DeletePatience: 3 * time.Second})
	begun := time.Now()
	r := b.send(t, "DELETE", roomsV1+"!room:x", `{}`)
	require.Greater(t, time.Since(begun), 2*time.Second, "longer than others")
	id := b.requireOpen(t, "")
	require.Equal(t, 504, r.status)
	require.Contains(t, r.body, `"errcode":"M_UNKNOWN"`)
	require.Contains(t, r.body, "delete_id "+id)
	requireHeaders(t, r.header)
	// Another one was never accepted.
	r = b.send(t, "DELETE", roomsV1+"!room:x", `{"block":true}`)
	require.Equal(t, 504, r.status)
	require.Contains(t, r.body, "delete_id "+id)
	require.Contains(t, r.body, "nother delete of the room")
	require.Equal(t, 1, b.requireCount(t))
	requireJSON(t, b.send(t, "GET", roomsV2+"delete_status/"+id, ""), 200, deleteBody(id, "scheduled", "", ""))
}

func TestSynchronousDeleteThatEndsBadly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		state  journal.State
		reason string
		status int
		want   string
	}{
		{journal.Failed, "400: Users are still joined to this room", 400, "Users are still joined to this room"},
		{journal.Failed, "400: 'name' not a string type", 400, "'name' not a string type"},
		{journal.Failed, "403: You are not allowed: <x>", 403, "You are not allowed: <x>"},
		{journal.Failed, "404: ", 404, ""},
		{journal.Failed, "413: the event is too large", 413, "the event is too large"},
		{journal.Failed, "499: x", 499, "x"},
		{journal.Failed, "500: x", 500, "500: x"},
		{journal.Failed, "399: x", 500, "399: x"},
		{journal.Failed, "4000: x", 500, "4000: x"},
		{journal.Failed, "-400: x", 500, "-400: x"},
		{journal.Failed, "400", 500, "400"},
		{journal.Failed, "404:x", 500, "404:x"},
		{journal.Failed, "dial: refused", 500, "dial: refused"},
		{journal.Cancelled, "", 500, "cancelled"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			b := setup(t, httpapi.Options{})
			b.jobs[submittedDelete] = jobs.Status{
				Kind: jobs.DeleteRoom, State: test.state, Error: test.reason, Progress: `{"phase":"shutting_down",` + partly + `}`,
			}
			requireJSON(t, b.send(t, "DELETE", roomsV1+"!room:x", `{}`), test.status, refusal("M_UNKNOWN", test.want))
		})
	}
}
