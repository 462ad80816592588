package httpapi_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"lethe/internal/backfill"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/homeserver"
	"lethe/internal/httpapi"
	"lethe/internal/lock"
	"lethe/internal/messages"
	"lethe/internal/redisdb"
	"lethe/internal/roomgen"
)

const (
	// chat is a room in which @alice:x is, whose access token is alice.
	chat       = "!chat:x"
	chatEvents = 40

	chatV3    = "/_matrix/client/v3/rooms/" + chat + "/messages"
	chatAdmin = "/_synapse/admin/v1/rooms/" + chat + "/messages"

	whoami = "/_matrix/client/v3/account/whoami"

	// chatContext is followed by an event id.
	chatContext = "/_synapse/admin/v1/rooms/" + chat + "/context/"
)

func withChat(ctx context.Context, url string) error {
	if err := prepare(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = roomgen.Generate(ctx, conn, roomgen.Room{
		ID: chat, Creator: "@alice:x", Server: "x", Events: chatEvents, LocalMembers: 2, RemoteMembers: 1,
	})
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `
		INSERT INTO access_tokens (id, user_id, device_id, token) VALUES (100, '@alice:x', 'PHONE', 'alice')`)
	return err
}

// setupChat is setup with the room.
func setupChat(t *testing.T, options httpapi.Options, reading *messages.Options) *bundle {
	t.Helper()
	database := devstacktest.Database(t, "httpapi chat", withChat)
	db := openStore(t, database)
	if reading != nil {
		options.Messages = messages.New(db, *reading)
	}
	b := setupOn(t, db, options)
	b.url = database
	return b
}

// get sends a request with an access token.
func (b *bundle) get(t *testing.T, path, token string) reply {
	t.Helper()
	return b.raw(t, "GET "+path+" HTTP/1.1\nHost: x\nAuthorization: Bearer "+token+"\n\n")
}

// A page is an answer of /messages.
type page struct {
	Chunk []struct {
		ID       string `json:"event_id"`
		Type     string
		Unsigned map[string]any
	}
	Start string
	End   *string
	State []json.RawMessage
}

func requirePage(t *testing.T, r reply) (p page) {
	t.Helper()
	require.Equal(t, 200, r.status, r.body)
	requireHeaders(t, r.header)
	require.Equal(t, "application/json", r.header.Get("Content-Type"))
	require.Equal(t, fmt.Sprint(len(r.body)), r.header.Get("Content-Length"))
	require.NoError(t, json.Unmarshal([]byte(r.body), &p), r.body)
	return p
}

func TestMessages(t *testing.T) {
	t.Parallel()
	b := setupChat(t, httpapi.Options{}, nil)
	var seen []string
	path := chatV3 + "?dir=b&limit=15"
	for pages := 0; ; pages++ {
		require.Less(t, pages, 10)
		p := requirePage(t, b.get(t, path, "alice"))
		require.Empty(t, p.State)
		for _, event := range p.Chunk {
			require.NotContains(t, seen, event.ID)
			require.Contains(t, []any{"join", "leave"}, event.Unsigned["membership"])
			seen = append(seen, event.ID)
		}
		if p.End == nil {
			break
		}
		path = chatV3 + "?dir=b&limit=15&from=" + *p.End
	}
	require.Len(t, seen, chatEvents)

	all := requirePage(t, b.get(t, chatAdmin+"?dir=b&limit=1000", admin))
	require.Len(t, all.Chunk, chatEvents)
	for i, event := range all.Chunk {
		require.Equal(t, seen[i], event.ID)
		require.NotContains(t, event.Unsigned, "membership")
	}
	for _, version := range []string{"api/v1", "r0", "v3", "unstable"} {
		p := requirePage(t, b.get(t, "/_matrix/client/"+version+"/rooms/%21chat%3Ax/messages?dir=b", "alice"))
		require.Len(t, p.Chunk, 10)
	}
	head := b.raw(t, "HEAD "+chatV3+" HTTP/1.1\nHost: x\nAuthorization: Bearer alice\n\n")
	require.Equal(t, 200, head.status)
	require.Empty(t, head.body)
	require.NotEqual(t, "0", head.header.Get("Content-Length"))

	lazy := requirePage(t, b.get(t, chatV3+"?dir=b&limit=2&filter="+url.QueryEscape(`{"lazy_load_members":true}`), "alice"))
	require.NotEmpty(t, lazy.State)
	for request, want := range map[string]struct{ route, method string }{
		"GET /_matrix/client/v1/rooms/!chat:x/messages":     {"unmatched", "GET"},
		"POST /_matrix/client/v3/rooms/!chat:x/messages":    {"", ""},
		"GET /_matrix/client/v3/rooms/!chat:x/messages/":    {"unmatched", "GET"},
		"GET /_synapse/admin/v2/rooms/!chat:x/messages":     {"unmatched", "GET"},
		"GET /_matrix/client/v3/rooms/!chat:x/x/messages":   {"unmatched", "GET"},
		"PUT /_synapse/admin/v1/rooms/!chat:x/context/$one": {"", ""},
	} {
		r := b.raw(t, request+" HTTP/1.1\nHost: x\nAuthorization: Bearer admin\n\n")
		if want.route == "" {
			requireJSON(t, r, 405, unrecognized)
		} else {
			requireJSON(t, r, 404, unrecognized)
		}
	}
}

func TestMessagesRefusals(t *testing.T) {
	t.Parallel()
	b := setupChat(t, httpapi.Options{}, nil)
	filter := func(text string) string { return "?filter=" + url.QueryEscape(text) }
	const (
		notJSON = "Query parameter filter must be a valid JSON object"
		noLimit = "&limit=x"
	)
	for name, test := range map[string]struct {
		query      string
		status     int
		code, text string // "" for a page
	}{
		"dir":                    {"?dir=x&from=zzz", 400, "M_INVALID_PARAM", "Query parameter 'dir' must be one of ['b', 'f']"},
		"dir is empty":           {"?dir=", 400, "M_INVALID_PARAM", "Query parameter 'dir' must be one of ['b', 'f']"},
		"from":                   {"?from=zzz&to=zzz" + noLimit, 400, "M_UNKNOWN", "'from' parameter is invalid"},
		"from is not ascii":      {"?from=%C3%BC" + noLimit, 400, "M_UNKNOWN", "Query parameter 'from' must be ascii"},
		"from has NUL":           {"?from=s1%00", 400, "M_UNKNOWN", "'from' parameter is invalid"},
		"from is empty":          {"?from=", 200, "", ""},
		"from is END":            {"?from=END", 200, "", ""},
		"from has no equal sign": {"?from", 200, "", ""},
		"first from wins":        {"?from=s1&from=zzz", 200, "", ""},
		"to":                     {"?to=zzz" + noLimit, 400, "M_UNKNOWN", "'to' parameter is invalid"},
		"to is END":              {"?to=END", 400, "M_UNKNOWN", "'to' parameter is invalid"},
		"to is empty":            {"?to=", 200, "", ""},
		"limit":                  {"?limit=x&filter={", 400, "M_INVALID_PARAM", "Query parameter limit must be an integer"},
		"limit is negative":      {"?limit=-1", 400, "M_INVALID_PARAM", "Query parameter limit must be a positive integer."},
		"limit is high":          {"?limit=99999999999999999999", 200, "", ""},
		"filter":                 {filter("}}}{}"), 400, "M_NOT_JSON", notJSON},
		"filter is empty":        {"?filter=", 200, "", ""},
		"filter is null":         {filter("null"), 200, "", ""},
		"filter is a list":       {filter("[]"), 200, "", ""},
		"filter is zero":         {filter("0"), 200, "", ""},
		"filter is a text":       {filter(`"x"`), 400, "M_BAD_JSON", "Query parameter filter must be a JSON object"},
		"filter is a long list":  {filter("[1]"), 400, "M_BAD_JSON", "Query parameter filter must be a JSON object"},
		"filter is not UTF-8":    {"?filter=%FF", 400, "M_UNKNOWN", "Query parameter 'filter' must be utf-8"},
		"filter, escaped twice":  {filter(url.PathEscape(`{"types":["m.room.message"]}`)), 200, "", ""},
		"filter, NUL":            {filter(`{"types":["\u0000"]}`), 200, "", ""},
		"raw":                    {"?raw=", 200, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for path, token := range map[string]string{chatV3: "alice", chatAdmin: admin} {
				r := b.get(t, path+test.query, token)
				if test.status == 200 {
					requirePage(t, r)
					continue
				}
				requireJSON(t, r, test.status, refusal(test.code, test.text))
			}
			if test.status != 200 {
				// Before it is asked who may read the room.
				requireJSON(t, b.get(t, chatV3+test.query, "user"), test.status, refusal(test.code, test.text))
			}
		})
	}
}

func TestWhoMayReadMessages(t *testing.T) {
	t.Parallel()
	b := setupChat(t, httpapi.Options{}, nil)
	forbidden := func(user, room string) string {
		return refusal("M_FORBIDDEN", "User "+user+" not in room "+room+", and room previews are disabled")
	}
	for token, user := range map[string]string{"user": "@user:x", "guest": "@guest:x", admin: "@admin:x", "puppeteer": "@user:x"} {
		requireJSON(t, b.get(t, chatV3, token), 403, forbidden(user, chat))
	}
	requireJSON(t, b.get(t, "/_matrix/client/v3/rooms/%21%00%FF/messages", "alice"), 403, forbidden("@alice:x", "!\x00\uFFFD"))
	requireJSON(t, b.get(t, "/_matrix/client/v3/rooms//messages", "alice"), 403, forbidden("@alice:x", ""))
	requireJSON(t, b.get(t, chatAdmin, "alice"), 403, refusal("M_FORBIDDEN", "You are not a server admin"))
	requireJSON(t, b.get(t, chatAdmin, "guest"), 403, refusal("M_GUEST_ACCESS_FORBIDDEN", "Guest access not allowed"))
	requireJSON(t, b.get(t, chatV3, "locked"), 401,
		`{"errcode":"M_USER_LOCKED","error":"User account has been locked","soft_logout":true}`)
	for _, room := range []string{"!nope:x", "%00%FF"} {
		p := requirePage(t, b.get(t, "/_synapse/admin/v1/rooms/"+room+"/messages?dir=b", admin))
		require.Empty(t, p.Chunk)
		require.Nil(t, p.End)
	}

	// Anybody, guests too, may look into a room that the world may read.
	b.requireExec(t, `
		UPDATE event_json SET json = replace(json, '"history_visibility":"shared"', '"history_visibility":"world_readable"')
		WHERE event_id IN (SELECT event_id FROM current_state_events WHERE type = 'm.room.history_visibility')`)
	for _, token := range []string{"user", "guest"} {
		p := requirePage(t, b.get(t, chatV3+"?dir=b", token))
		require.NotEmpty(t, p.Chunk)
	}
}

// While a writer has the room, readers wait for a while, and are then told to
// come again.
func TestMessagesOfABusyRoom(t *testing.T) {
	t.Parallel()
	server := devstacktest.Redis(t)
	client, err := redisdb.OpenForLocks(server.URL())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	var without atomic.Int64
	readers := lock.NewReaders(lock.New(client, nil, lock.Options{}), lock.ReadersOptions{
		Wait: 100 * time.Millisecond, WithoutLease: func() { without.Add(1) },
	})
	t.Cleanup(readers.Close)
	b := setupChat(t, httpapi.Options{}, &messages.Options{Rooms: readers})
	writer, err := lock.New(client, fences(1), lock.Options{}).Lock(t.Context(), chat)
	require.NoError(t, err)
	const busy = `{"errcode":"M_LIMIT_EXCEEDED","error":"The room is being purged","retry_after_ms":2000}`
	for path, token := range map[string]string{
		chatV3: "alice", chatAdmin: admin, chatContext + "$x": admin,
	} {
		r := b.get(t, path, token)
		requireJSON(t, r, 503, busy)
		require.Equal(t, "2", r.header.Get("Retry-After"))
	}
	// A stranger does not learn that the room is being purged, nor leave a trace of rooms
	// that do not exist.
	keys := func() []string {
		all, err := client.Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		return all
	}
	before := keys()
	require.NotEmpty(t, before)
	for path, token := range map[string]string{
		chatV3: "user", strings.ReplaceAll(chatV3, chat, "!unknown:x"): "user",
		strings.ReplaceAll(chatV3, chat, "chat"): "alice", strings.ReplaceAll(chatV3, chat, "!"): "alice",
	} {
		require.Equal(t, 403, b.get(t, path, token).status, path)
	}
	long := "!" + strings.Repeat("a", 300) + ":x"
	for _, room := range []string{"chat", "!%00:x", "!a{b}", "{", long} {
		requirePage(t, b.get(t, strings.ReplaceAll(chatAdmin, chat, room), admin))
	}
	require.Subset(t, before, keys(), "a key of the writer may expire")
	require.NoError(t, writer.Unlock(t.Context()))
	requirePage(t, b.get(t, chatV3, "alice"))
	require.Zero(t, without.Load())

	// Without Redis they read all the same.
	server.Kill()
	require.Eventually(t, func() bool {
		requirePage(t, b.get(t, chatV3, "alice"))
		return without.Load() > 0
	}, 10*time.Second, 10*time.Millisecond)
}

// fences gives out one fence token.
type fences int64

func (f fences) NextFence(context.Context, string) (int64, error) { return int64(f), nil }

// What the database knows is answered here, and a token that it does not know by
// the homeserver, which may.
func TestMessagesBesideAHomeserver(t *testing.T) {
	t.Parallel()
	var passed atomic.Int64
	b := setupChat(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		passed.Add(1)
		_, _ = io.WriteString(w, `{"passed":"`+r.Header.Get("Authorization")+`"}`)
	})}, nil)
	requirePage(t, b.get(t, chatV3, "alice"))
	require.Zero(t, passed.Load())
	r := b.get(t, chatV3+"?from=zzz", "a-guest's")
	require.JSONEq(t, `{"passed":"Bearer a-guest's"}`, r.body)
	require.JSONEq(t, `{"passed":"Bearer alice"}`, b.raw(t, "POST "+chatV3+" HTTP/1.1\nHost: x\nAuthorization: Bearer alice\n\n").body)
	// An admin's is not asked for there.
	requireJSON(t, b.get(t, chatAdmin, "a-guest's"), 401,
		`{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
	requireJSON(t, b.get(t, chatV3, "expired"), 401,
		`{"errcode":"M_UNKNOWN_TOKEN","error":"Access token has expired","soft_logout":true}`)
}

func TestMessagesByHomeserverAuth(t *testing.T) {
	t.Parallel()
	b := setupChat(t, httpapi.Options{HomeserverAuth: true, Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		token, user := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), r.URL.Query().Get("user_id")
		switch {
		case !strings.HasSuffix(r.URL.Path, "whoami"):
			w.WriteHeader(403)
			_, _ = io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}`)
		case token == "mas":
			_, _ = io.WriteString(w, `{"user_id":"@alice:x","device_id":"D"}`)
		case token == "service":
			_, _ = fmt.Fprintf(w, `{"user_id":%q}`, cmp.Or(user, "@service:x"))
		case token == "guest":
			_, _ = io.WriteString(w, `{"user_id":"@guest:x","is_guest":true}`)
		default:
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
		}
	})}, nil)
	requirePage(t, b.get(t, chatV3, "mas"))
	requirePage(t, b.get(t, chatV3+"?user_id=@alice:x", "service"))
	require.Equal(t, 403, b.get(t, chatV3, "service").status)
	requireJSON(t, b.get(t, chatV3, "guest"), 403,
		refusal("M_FORBIDDEN", "User @guest:x not in room "+chat+", and room previews are disabled"))
	requireJSON(t, b.get(t, chatV3, "alice"), 401,
		`{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
}

// Where history begins, the homeserver is asked for more, as the reader, but not
// by itself.
func TestMessagesAskForOlderHistory(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	client := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path + " " + r.Header.Get("Authorization")
		_, _ = io.WriteString(w, `{}`)
	})
	b := setupChat(t, httpapi.Options{Homeserver: client},
		&messages.Options{Backfill: backfill.New(client, backfill.Options{})})
	b.requireExec(t, `
		INSERT INTO event_backward_extremities (event_id, room_id)
		SELECT '$lost', room_id FROM rooms WHERE room_id = $1`, chat)
	b.requireExec(t, `
		INSERT INTO event_edges (event_id, prev_event_id, is_state)
		SELECT event_id, '$lost', false FROM events WHERE room_id = $1 AND depth = 1`, chat)
	requirePage(t, b.raw(t, "GET "+chatV3+"?dir=b&limit=1000 HTTP/1.1\nHost: x\nAuthorization: Bearer alice\n"+
		homeserver.ForHistoryHeader+": 1\n\n"))
	require.Empty(t, asked)
	requirePage(t, b.get(t, chatV3+"?dir=b&limit=1000", "alice"))
	require.Equal(t, chatV3+" Bearer alice", <-asked)
}

func TestEventContext(t *testing.T) {
	t.Parallel()
	b := setupChat(t, httpapi.Options{}, nil)
	// Oldest first, as the room has them.
	all := requirePage(t, b.get(t, chatAdmin+"?limit=1000", admin)).Chunk
	require.Len(t, all, chatEvents)
	const at = 20
	event := all[at].ID
	for query, want := range map[string]struct{ before, after int }{
		"": {5, 5}, "?limit=3": {1, 2}, "?limit=0": {0, 0}, "?limit=1": {0, 1}, "?limit=99999": {at, chatEvents - at - 1},
	} {
		r := b.get(t, chatContext+event+query, admin)
		require.Equal(t, 200, r.status, r.body)
		var found struct {
			Event         struct{ Event_id string }
			Events_before []struct{ Event_id string }
			Events_after  []struct{ Event_id string }
			State         []struct{ Type, State_key string }
			Start, End    string
		}
		require.NoError(t, json.Unmarshal([]byte(r.body), &found))
		require.Equal(t, event, found.Event.Event_id)
		require.Len(t, found.Events_before, want.before, query)
		require.Len(t, found.Events_after, want.after, query)
		for i, before := range found.Events_before {
			require.Equal(t, all[at-1-i].ID, before.Event_id)
		}
		for i, after := range found.Events_after {
			require.Equal(t, all[at+1+i].ID, after.Event_id)
		}
		require.NotEmpty(t, found.State)
		// The tokens lead on from there.
		back := requirePage(t, b.get(t, chatAdmin+"?dir=b&limit=1&from="+found.Start, admin)).Chunk
		if n := at - 1 - want.before; n >= 0 {
			require.Equal(t, all[n].ID, back[0].ID)
		} else {
			require.Empty(t, back)
		}
		on := requirePage(t, b.get(t, chatAdmin+"?dir=f&limit=1&from="+found.End, admin)).Chunk
		if n := at + 1 + want.after; n < chatEvents {
			require.Equal(t, all[n].ID, on[0].ID)
		} else {
			require.Empty(t, on)
		}
	}
	// Neither the reader nor the filter's format makes a difference to how events look.
	raw := b.get(t, chatContext+event+"?filter="+url.QueryEscape(`{"event_format":"federation"}`), admin)
	require.NotContains(t, raw.body, "auth_events")
	require.Contains(t, raw.body, `"user_id"`)
	b.requireExec(t, `UPDATE event_json SET internal_metadata = '{"soft_failed":true,"policy_server_spammy":true}' WHERE event_id = $1`, event)
	require.NotContains(t, b.get(t, chatContext+event, admin).body, "io.element.synapse")
	require.Contains(t, b.get(t, adminV1+"/fetch_event/"+event, admin).body, `"io.element.synapse.soft_failed":true`)

	// The replaced state of an outlier is shown too, if it is there.
	b.requireExec(t, `
		UPDATE event_json SET json = (json::jsonb || jsonb_build_object('unsigned', jsonb_build_object('replaces_state', $2::text), 'state_key', ''))::text
		WHERE event_id = $1`, event, all[0].ID)
	b.requireExec(t, `UPDATE events SET outlier = true WHERE event_id = $1`, event)
	require.Contains(t, b.get(t, chatContext+event, admin).body, `"prev_sender"`)

	notFound := refusal("M_NOT_FOUND", "Event not found.")
	for _, id := range []string{"$nope", "", "$one", "%00", "%FF"} {
		r := b.get(t, chatContext+id, admin)
		require.Equal(t, 404, r.status, "%s %s", id, b.log)
		requireJSON(t, r, 404, notFound)
	}
	requireJSON(t, b.get(t, chatContext+event+"?limit=x&filter={", admin), 400,
		refusal("M_INVALID_PARAM", "Query parameter limit must be an integer"))
	requireJSON(t, b.get(t, chatContext+event+"?filter={", admin), 400,
		refusal("M_NOT_JSON", "Query parameter filter must be a valid JSON object"))
	requireJSON(t, b.get(t, chatContext+event, "alice"), 403, refusal("M_FORBIDDEN", "You are not a server admin"))
}

// A token that was revoked changes nothing from then on, and reads for no longer than
// a moment.
func TestRevokedToken(t *testing.T) {
	t.Parallel()
	b := setupChat(t, httpapi.Options{}, nil)
	requirePage(t, b.get(t, chatV3+"?dir=b", "alice"))
	requirePage(t, b.get(t, chatAdmin+"?dir=b", admin))
	require.JSONEq(t, `{"user_id": "@alice:x", "device_id": "PHONE", "is_guest": false}`, b.get(t, whoami, "alice").body)
	b.requireExec(t, `DELETE FROM access_tokens`)
	require.Equal(t, 401, b.get(t, whoami, "alice").status, "at once")
	for _, request := range []string{
		"DELETE /_synapse/admin/v2/rooms/" + chat,
		"DELETE /_synapse/admin/v1/rooms/" + chat,
		"POST /_synapse/admin/v1/purge_history/" + chat,
		"PUT /_synapse/admin/v1/rooms/" + chat + "/block",
	} {
		const body = `{"purge_up_to_ts":1,"block":true}`
		r := b.raw(t, fmt.Sprintf("%s HTTP/1.1\nHost: x\nAuthorization: Bearer %s\nContent-Length: %d\n\n%s", request, admin, len(body), body))
		require.Equal(t, 401, r.status, "%s: %s", request, r.body)
		require.Contains(t, r.body, "M_UNKNOWN_TOKEN", request)
	}
	for path, token := range map[string]string{chatV3 + "?dir=b": "alice", chatAdmin + "?dir=b": admin} {
		require.Eventually(t, func() bool { return b.get(t, path, token).status == 401 }, 20*time.Second, 50*time.Millisecond, path)
	}
}
