package messages

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

const (
	alice, bob, carol = "@alice:x", "@bob:x", "@carol:x"
	talkRoom          = "!room:x"
)

// A talk is a room whose events relate to each other.
type talk struct {
	t     *testing.T
	conn  *pgx.Conn
	store *postgres.DB
	place int64 // of the last event
}

func newTalk(t *testing.T) *talk {
	t.Helper()
	url := devstacktest.Database(t, "talk", func(ctx context.Context, url string) error {
		if err := migrate.UpEmbedded(ctx, url); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		_, err = conn.Exec(ctx, `
			CREATE TABLE IF NOT EXISTS public.ignored_users (ignorer_user_id text NOT NULL, ignored_user_id text NOT NULL);
			INSERT INTO rooms (room_id, room_version) VALUES ('!room:x', '10'), ('!other:x', '10')`)
		return err
	})
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	db, err := postgres.Open(t.Context(), storetest.AsKnownColumns(t, url, schema.API), postgres.Options{MaxConnections: 2})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return &talk{t: t, conn: conn, store: db}
}

func (k *talk) requireExec(sql string, args ...any) {
	k.t.Helper()
	_, err := k.conn.Exec(k.t.Context(), sql, args...)
	require.NoError(k.t, err)
}

// say adds an event of a type to the room, with the given content.
func (k *talk) say(id, sender, kind, content string) string {
	k.t.Helper()
	k.place++
	k.requireExec(`
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, origin_server_ts, processed, outlier)
		VALUES ($1, $2, $3, $4, $5, $5, $5, $5, true, false)`, id, talkRoom, kind, sender, k.place)
	k.requireExec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) VALUES ($1, $2, '{}', $3, 3)`, id, talkRoom,
		fmt.Sprintf(`{"type":%q,"sender":%q,"content":%s,"origin_server_ts":%d,"depth":%[4]d,"unsigned":{"age_ts":1}}`, kind, sender, content, k.place))
	return id
}

// relate adds a message that relates to another.
func (k *talk) relate(id, sender, relation, to string) string {
	k.t.Helper()
	kind := "m.room.message"
	if relation == "m.annotation" {
		kind = "m.reaction"
	}
	return k.relateAs(kind, id, sender, relation, to)
}

func (k *talk) relateAs(kind, id, sender, relation, to string) string {
	k.t.Helper()
	k.say(id, sender, kind, fmt.Sprintf(`{"body":%q,"m.relates_to":{"rel_type":%q,"event_id":%q}}`, id, relation, to))
	k.requireExec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, $3)`, id, to, relation)
	return id
}

// redact redacts an event as a homeserver does: it is no relation any more.
func (k *talk) redact(id string) {
	k.t.Helper()
	redaction := k.say("$redacts"+id[1:], alice, "m.room.redaction", `{}`)
	k.requireExec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, false)`, redaction, id)
	k.requireExec(`DELETE FROM event_relations WHERE event_id = $1`, id)
}

// requireShows returns the events by their ids, as the request gets them.
func (k *talk) requireShows(request Request, ids ...string) map[string]event {
	k.t.Helper()
	request.Room = talkRoom
	found := map[string]event{}
	require.NoError(k.t, timeline.Read(k.t.Context(), k.store, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		events, err := snapshot.EventsOf(ctx, talkRoom, ids, timeline.EventFilter{})
		require.NoError(k.t, err)
		written, err := render(ctx, snapshot, request, allShown(events))
		require.NoError(k.t, err)
		for _, e := range decodedAll(k.t, written) {
			found[e["event_id"].(string)] = e
		}
		return nil
	}))
	return found
}

// relations is what the reader gets to see of what relates to an event; nil if that
// is nothing.
func (k *talk) relations(reader, id string) event {
	k.t.Helper()
	return relationsOf(k.requireShows(Request{Reader: Reader{UserID: reader}}, id)[id])
}

func relationsOf(e event) event {
	relations, _ := e["unsigned"].(event)["m.relations"].(event)
	return relations
}

func references(ids ...string) event {
	chunk := []any{}
	for _, id := range ids {
		chunk = append(chunk, event{"event_id": id})
	}
	return event{"chunk": chunk}
}

// requireThread holds the thread on an event against what it is to be.
func (k *talk) requireThread(reader, root, latest string, count int, participated bool) {
	k.t.Helper()
	thread, _ := k.relations(reader, root)["m.thread"].(event)
	require.NotNil(k.t, thread)
	require.Equal(k.t, latest, thread["latest_event"].(event)["event_id"])
	require.Equal(k.t, float64(count), thread["count"])
	require.Equal(k.t, participated, thread["current_user_participated"])
	require.Len(k.t, thread, 3)
}

func TestEdits(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{"body":"Hi!"}`)
	require.Nil(t, k.relations(bob, p))
	k.relate("$e1", alice, "m.replace", p)
	k.requireExec(`UPDATE event_json SET internal_metadata = '{"txn_id":"t","token_id":4}' WHERE event_id = '$e1'`)

	// The content stays, and the edit is all there.
	got := k.requireShows(Request{Reader: Reader{UserID: alice, TokenID: 4}}, p)[p]
	require.Equal(t, event{"body": "Hi!"}, got["content"])
	edit := relationsOf(got)["m.replace"].(event)
	require.Equal(t, event{
		"event_id": "$e1", "sender": alice, "user_id": alice, "room_id": talkRoom, "type": "m.room.message", "origin_server_ts": 2.0, "age": edit["age"],
		"content":  event{"body": "$e1", "m.relates_to": event{"rel_type": "m.replace", "event_id": p}},
		"unsigned": event{"age": edit["age"], "transaction_id": "t"},
	}, edit)
	require.Len(t, relationsOf(got), 1)

	// The latest by time and id of those by the same sender and of the same type.
	edited := func() any {
		edit, _ := k.relations(bob, p)["m.replace"].(event)
		return edit["event_id"]
	}
	k.relate("$e2", alice, "m.replace", p)
	k.relateAs("m.other", "$e3", alice, "m.replace", p)
	k.relate("$e4", bob, "m.replace", p)
	require.Equal(t, "$e2", edited())
	k.requireExec(`UPDATE events SET origin_server_ts = 50 WHERE event_id IN ('$e1', '$e2')`)
	require.Equal(t, "$e2", edited())
	k.requireExec(`UPDATE events SET origin_server_ts = 51 WHERE event_id = '$e1'`)
	require.Equal(t, "$e1", edited())
	k.requireExec(`UPDATE events SET origin_server_ts = NULL WHERE event_id = '$e1'`)
	require.Equal(t, "$e2", edited())

	// One that was rejected, or is in another room, is none.
	k.requireExec(`INSERT INTO rejections VALUES ('$e2', '', '')`)
	require.Equal(t, "$e1", edited())
	k.requireExec(`UPDATE events SET rejection_reason = '' WHERE event_id = '$e1'`)
	require.Nil(t, edited())
	k.relate("$e5", alice, "m.replace", p)
	require.Equal(t, "$e5", edited())
	k.requireExec(`UPDATE events SET room_id = '!other:x' WHERE event_id = '$e5'`)
	require.Nil(t, edited())

	// The edit of an edit is nothing.
	k.relate("$e6", alice, "m.replace", p)
	k.relate("$e7", alice, "m.replace", "$e6")
	require.Equal(t, "$e6", edited())
	require.Nil(t, k.relations(alice, "$e6"))

	// A reply stays one.
	reply := k.say("$reply", bob, "m.room.message", `{"m.relates_to":{"m.in_reply_to":{"event_id":"$p"}}}`)
	k.relate("$e8", bob, "m.replace", reply)
	got = k.requireShows(Request{}, reply)[reply]
	require.Equal(t, event{"m.relates_to": event{"m.in_reply_to": event{"event_id": p}}}, got["content"])
	require.Equal(t, "$e8", relationsOf(got)["m.replace"].(event)["event_id"])

	// One that cannot be read is left out, and takes nothing with it.
	k.requireExec(`UPDATE event_json SET json = '[' WHERE event_id = '$e6'`)
	require.Nil(t, k.relations(alice, p))
	k.relate("$ref", bob, "m.reference", p)
	require.Equal(t, event{"m.reference": references("$ref")}, k.relations(alice, p))
}

func TestReferences(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{}`)
	k.relate("$z", bob, "m.reference", p)
	k.relate("$a", carol, "m.reference", p)
	require.Equal(t, event{"m.reference": references("$z", "$a")}, k.relations(alice, p))

	// Other relations are not told of, nor what relates to an annotation.
	k.relate("$odd", bob, "org.example.odd", p)
	reaction := k.relate("$like", bob, "m.annotation", p)
	k.relate("$like it", bob, "m.annotation", reaction)
	k.relate("$of it", bob, "m.reference", reaction)
	require.Equal(t, event{"m.reference": references("$z", "$a")}, k.relations(alice, p))
	require.Nil(t, k.relations(alice, reaction))
	require.Nil(t, k.relations(alice, k.say("$state", alice, "m.room.topic", `{}`)))

	// A state event has none, whatever relates to it.
	k.relate("$of state", bob, "m.reference", "$state")
	require.NotNil(t, k.relations(alice, "$state"))
	k.requireExec(`UPDATE event_json SET json = '{"type":"m.room.topic","state_key":"","sender":"@alice:x","origin_server_ts":1,"depth":1,"content":{}}' WHERE event_id = '$state'`)
	require.Nil(t, k.relations(alice, "$state"))

	// Those of another room, rejected, or by whom the reader ignores do not count.
	k.requireExec(`UPDATE events SET room_id = '!other:x' WHERE event_id = '$z'`)
	require.Equal(t, event{"m.reference": references("$a")}, k.relations(alice, p))
	k.requireExec(`UPDATE events SET room_id = '!room:x' WHERE event_id = '$z'; INSERT INTO rejections VALUES ('$z', '', '')`)
	require.Equal(t, event{"m.reference": references("$a")}, k.relations(alice, p))
	k.requireExec(`DELETE FROM rejections; UPDATE events SET rejection_reason = '' WHERE event_id = '$z'`)
	require.Equal(t, event{"m.reference": references("$a")}, k.relations(alice, p))
	k.requireExec(`UPDATE events SET rejection_reason = NULL WHERE event_id = '$z'; INSERT INTO ignored_users VALUES ('@alice:x', '@bob:x')`)
	require.Equal(t, event{"m.reference": references("$a")}, k.relations(alice, p))
	require.Equal(t, event{"m.reference": references("$z", "$a")}, k.relations(carol, p))
	all := k.requireShows(Request{All: true, Reader: Reader{UserID: alice, Admin: true}}, p)[p]
	require.Equal(t, event{"m.reference": references("$z", "$a")}, relationsOf(all))
	k.requireExec(`INSERT INTO ignored_users VALUES ('@alice:x', '@carol:x')`)
	require.Nil(t, k.relations(alice, p))
}

func TestThreads(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{}`)
	k.relate("$t1", bob, "m.thread", p)
	k.relate("$t2", bob, "m.thread", p)
	k.requireThread(alice, p, "$t2", 2, true)
	k.requireThread(bob, p, "$t2", 2, true)
	k.requireThread(carol, p, "$t2", 2, false)
	latest := k.relations(carol, p)["m.thread"].(event)["latest_event"].(event)
	require.NotContains(t, latest["unsigned"], "m.relations")

	// The latest reply is shown with what relates to it, but for threads.
	k.relate("$ref", carol, "m.reference", "$t2")
	k.relate("$edit", bob, "m.replace", "$t2")
	k.relate("$deep", bob, "m.thread", "$t2")
	k.relate("$ref of edit", carol, "m.reference", "$edit")
	latest = k.relations(carol, p)["m.thread"].(event)["latest_event"].(event)
	of := relationsOf(latest)
	require.Equal(t, references("$ref"), of["m.reference"])
	require.Equal(t, "$edit", of["m.replace"].(event)["event_id"])
	require.NotContains(t, of["m.replace"].(event)["unsigned"], "m.relations")
	require.Len(t, of, 2)

	// A reply has what refers to it, and no thread of its own.
	require.Equal(t, references("$ref"), k.relations(carol, "$t2")["m.reference"])
	require.NotContains(t, k.relations(carol, "$t2"), "m.thread")

	// Root and replies of one page are shown as if they were alone.
	both := k.requireShows(Request{Reader: Reader{UserID: carol}}, p, "$t2", "$t1")
	require.Equal(t, latest["event_id"], relationsOf(both[p])["m.thread"].(event)["latest_event"].(event)["event_id"])
	require.Equal(t, references("$ref"), relationsOf(both["$t2"])["m.reference"])

	// Arrival decides only among replies of one depth.
	k.requireExec(`UPDATE events SET topological_ordering = 100 WHERE event_id = '$t1'`)
	k.requireThread(carol, p, "$t1", 2, false)
	k.requireExec(`UPDATE events SET topological_ordering = 100 WHERE event_id = '$t2'`)
	k.requireThread(carol, p, "$t2", 2, false)

	// Those of another room or rejected do not count.
	k.requireExec(`UPDATE events SET room_id = '!other:x' WHERE event_id = '$t2'`)
	k.requireThread(carol, p, "$t1", 1, false)
	k.requireExec(`UPDATE events SET rejection_reason = 'x' WHERE event_id = '$t1'`)
	require.NotContains(t, k.relations(carol, p), "m.thread")
}

func TestThreadsWithIgnoredUsers(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{}`)
	k.relate("$t1", alice, "m.thread", p)
	k.relate("$t2", bob, "m.thread", p)
	k.requireThread(carol, p, "$t2", 2, false)
	k.requireExec(`INSERT INTO ignored_users VALUES ('@carol:x', '@bob:x')`)
	k.requireThread(carol, p, "$t1", 1, false)
	k.requireThread(alice, p, "$t2", 2, true)
	all := k.requireShows(Request{All: true, Reader: Reader{UserID: carol}}, p)[p]
	require.Equal(t, 2.0, relationsOf(all)["m.thread"].(event)["count"])

	// Where all replies are by whom the reader ignores there is no thread.
	k.requireExec(`INSERT INTO ignored_users VALUES ('@carol:x', '@alice:x')`)
	require.Nil(t, k.relations(carol, p))
}

func TestRedactedRelations(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{"body":"Hi!"}`)
	for _, id := range []string{"$t1", "$t2", "$t3"} {
		k.relate(id, bob, "m.thread", p)
	}
	k.redact("$t3")
	k.requireThread(alice, p, "$t2", 2, true)
	k.redact("$t1")
	k.requireThread(alice, p, "$t2", 1, true)

	// Of what was redacted, edits are not shown; references and threads are.
	k.relate("$ref", bob, "m.reference", p)
	k.relate("$edit", alice, "m.replace", p)
	require.Len(t, k.relations(alice, p), 3)
	k.redact(p)
	require.Equal(t, references("$ref"), k.relations(alice, p)["m.reference"])
	k.requireThread(alice, p, "$t2", 1, true)
	require.Len(t, k.relations(alice, p), 2)

	k.redact("$t2")
	require.Equal(t, event{"m.reference": references("$ref")}, k.relations(alice, p))

	// A relation that was left behind leads to a redacted reply, without its edits.
	k.relate("$t4", bob, "m.thread", p)
	k.relate("$e4", bob, "m.replace", "$t4")
	k.redact("$t4")
	k.requireExec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ('$t4', '$p', 'm.thread')`)
	latest := k.relations(alice, p)["m.thread"].(event)["latest_event"].(event)
	require.Equal(t, event{}, latest["content"])
	require.Equal(t, "$redactst4", latest["unsigned"].(event)["redacted_by"])
	require.NotContains(t, latest["unsigned"], "m.relations")
}

// An erased user's message is shown without the edits, which would tell what it
// said.
func TestErasedSendersEdits(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{"body":"Hi!"}`)
	k.relate("$edit", alice, "m.replace", p)
	k.relate("$ref", bob, "m.reference", p)
	require.NoError(t, timeline.Read(t.Context(), k.store, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		events, err := snapshot.EventsOf(ctx, talkRoom, []string{p}, timeline.EventFilter{})
		require.NoError(t, err)
		require.Len(t, events, 1)
		written, err := render(ctx, snapshot, Request{Room: talkRoom}, []shown{{Event: events[0], erased: true}})
		require.NoError(t, err)
		got := requireDecoded(t, written[0])
		require.Equal(t, event{}, got["content"])
		require.Equal(t, event{"m.reference": references("$ref")}, relationsOf(got))
		require.NotContains(t, got["unsigned"], "redacted_by")
		return nil
	}))
}

// What no homeserver would have stored is left out, or shown as it is, and never an
// error of the page.
func TestHostileRelations(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	const none = `{"m.relates_to":null}`
	for i, content := range []string{
		`{}`, none, `{"m.relates_to":[]}`, `{"m.relates_to":{"rel_type":"m.annotation"}}`, `{"m.relates_to":{"rel_type":["m.replace"],"event_id":"$x"}}`,
		`{"m.relates_to":{"rel_type":"m.replace","event_id":7}}`, `{"m.relates_to":{"rel_type":"m.replace","event_id":"$x"},"m.relates_to":{}}`,
	} {
		id := k.say(fmt.Sprint("$parent", i), alice, "m.room.message", content)
		k.relate("$ref"+id[1:], bob, "m.reference", id)
		require.Equal(t, event{"m.reference": references("$ref" + id[1:])}, k.relations(alice, id), content)
	}
	for i, content := range []string{
		`{"m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`, `{"m.relates\u005fto":{"rel_type":"m.anno\u0074ation","event_id":""}}`,
	} {
		id := k.say(fmt.Sprint("$closed", i), alice, "m.room.message", content)
		k.relate("$ref"+id[1:], bob, "m.reference", id)
		require.Nil(t, k.relations(alice, id), content)
	}

	// Ids of all kinds, and events that relate to themselves and to each other.
	odd := k.say("$\"\\é\n", alice, "m.room.message", `{}`)
	k.relate("$<&>\"", bob, "m.reference", odd)
	require.Equal(t, event{"m.reference": references("$<&>\"")}, k.relations(alice, odd))
	k.relate("$self", alice, "m.thread", "$self")
	require.Nil(t, k.relations(alice, "$self"))
	own := k.say("$own", alice, "m.room.message", `{}`)
	k.requireExec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ('$own', '$own', 'm.thread')`)
	k.requireThread(alice, own, own, 1, true)
	k.requireExec(`UPDATE event_relations SET relation_type = 'm.replace' WHERE event_id = '$own'`)
	require.Equal(t, own, k.relations(alice, own)["m.replace"].(event)["event_id"])

	// The latest reply cannot be read, or was never stored.
	p := k.say("$p", alice, "m.room.message", `{}`)
	k.relate("$t", bob, "m.thread", p)
	k.requireExec(`UPDATE event_json SET json = 'null' WHERE event_id = '$t'`)
	require.Nil(t, k.relations(alice, p))
	k.requireExec(`DELETE FROM event_json WHERE event_id = '$t'`)
	require.Nil(t, k.relations(alice, p))
	k.requireExec(`DELETE FROM events WHERE event_id = '$t'`)
	require.Nil(t, k.relations(alice, p))

	// Events that cannot be read are left out of the page.
	k.requireExec(`UPDATE event_json SET json = '{"content":' WHERE event_id = '$own'`)
	require.Len(t, k.requireShows(Request{}, p, own, odd), 2)
	require.Empty(t, k.requireShows(Request{}))
	var nothing []json.RawMessage
	require.NoError(t, timeline.Read(t.Context(), k.store, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
		nothing, err = render(ctx, snapshot, Request{Room: "\x00"}, []shown{{Event: timeline.Event{
			ID: "$\x00", JSON: []byte(`{"type":"t","content":{},"sender":"","origin_server_ts":1,"depth":1,"state_key":"","unsigned":{"replaces_state":"$\u0000"}}`),
		}}, {Event: timeline.Event{ID: "$\xff", JSON: []byte(`{"type":"t","content":{},"sender":"","origin_server_ts":1,"depth":1}`)}}})
		return err
	}))
	require.Len(t, nothing, 2)
}

func TestReplacedState(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	k.say("$before", bob, "m.room.topic", `{"topic":"old"}`)
	after := k.say("$after", alice, "m.room.topic", `{"topic":"new"}`)
	state := func(unsigned string) {
		k.requireExec(`UPDATE event_json SET json = $2 WHERE event_id = $1`, after,
			`{"type":"m.room.topic","state_key":"","sender":"@alice:x","origin_server_ts":1,"depth":1,"content":{"topic":"new"},"unsigned":`+unsigned+`}`)
	}
	state(`{"replaces_state":"$before"}`)
	got := k.requireShows(Request{}, after)[after]
	require.Equal(t, event{"replaces_state": "$before", "prev_content": event{"topic": "old"}, "prev_sender": bob}, got["unsigned"])
	require.Equal(t, event{"topic": "old"}, got["prev_content"])
	require.Equal(t, "$before", got["replaces_state"])
	k.redact("$before")
	require.Equal(t, event{}, k.requireShows(Request{}, after)[after]["prev_content"])
	for _, unsigned := range []string{`{"replaces_state":"$gone"}`, `{"replaces_state":7}`, `{"replaces_state":"\u0000"}`, `{}`, `7`} {
		state(unsigned)
		require.NotContains(t, k.requireShows(Request{}, after)[after], "prev_content", unsigned)
	}
}

// A page on which nothing can be shown with an event costs no query.
func TestPageWithoutCandidates(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	require.NoError(t, timeline.Read(t.Context(), k.store, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		chunk := func(text string) []shown {
			return []shown{{Event: timeline.Event{ID: "$e", JSON: json.RawMessage(text)}}}
		}
		for _, text := range []string{
			`{"type":"m.room.topic","sender":"@a:x","origin_server_ts":1,"depth":1,"state_key":"","content":{}}`, `[`,
			`{"type":"m.reaction","sender":"@a:x","origin_server_ts":1,"depth":1,"content":{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x"}}}`,
		} {
			_, err := render(ended, snapshot, Request{}, chunk(text))
			require.NoError(t, err, text)
		}
		message := chunk(`{"type":"m.room.message","sender":"@a:x","origin_server_ts":1,"depth":1,"content":{}}`)
		_, err := render(ended, snapshot, Request{}, message)
		require.NoError(t, err)
		message[0].Related.Edited = true
		_, err = render(ended, snapshot, Request{}, message)
		require.ErrorIs(t, err, context.Canceled)
		return nil
	}))
}

// However long a thread is, a page of it is a few rows.
func TestLongThread(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{}`)
	const long = 20_000
	k.requireExec(`
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, origin_server_ts, processed, outlier)
		SELECT '$t' || i, '!room:x', 'm.room.message', '@bob:x', i, i, i, i, true, false FROM generate_series(1001, 1000 + $1::int) i`, long)
	k.requireExec(`
		INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT '$t' || i, '!room:x', '{}', '{"type":"m.room.message","sender":"@bob:x","origin_server_ts":1,"depth":1,"content":{"body":"`+strings.Repeat("x", 500)+`"}}' FROM generate_series(1001, 1000 + $1::int) i`, long)
	k.requireExec(`
		INSERT INTO event_relations (event_id, relates_to_id, relation_type)
		SELECT '$t' || i, '$p', 'm.thread' FROM generate_series(1001, 1000 + $1::int) i`, long)
	k.requireExec(`ANALYZE`)
	k.requireThread(bob, p, fmt.Sprint("$t", 1000+long), long, true)
	k.requireThread(carol, p, fmt.Sprint("$t", 1000+long), long, false)

	// Nor does it hide what else relates to it, or to others of the page.
	q := k.say("$q", alice, "m.room.message", `{}`)
	for _, parent := range []string{p, q} {
		k.relate("$ref"+parent[1:], bob, "m.reference", parent)
		k.relate("$edit"+parent[1:], alice, "m.replace", parent)
	}
	shows := k.requireShows(Request{Reader: Reader{UserID: carol}}, p, q)
	for _, parent := range []string{p, q} {
		got := relationsOf(shows[parent])
		require.Equal(t, references("$ref" + parent[1:])["chunk"], got["m.reference"].(event)["chunk"])
		require.Equal(t, "$edit"+parent[1:], got["m.replace"].(event)["event_id"])
	}
	require.Contains(t, relationsOf(shows[p]), "m.thread")
	require.NotContains(t, relationsOf(shows[q]), "m.thread")
}

func TestLazyMembers(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	k.requireExec(`INSERT INTO state_groups (id, room_id, event_id) VALUES (1, '!room:x', '$m')`)
	for _, user := range []string{alice, bob, carol} {
		id := "$m" + user
		k.say(id, user, "m.room.member", `{"membership":"join"}`)
		k.requireExec(`UPDATE event_json SET json = $2 WHERE event_id = $1`, id,
			`{"type":"m.room.member","state_key":"`+user+`","sender":"`+user+`","depth":1,"origin_server_ts":1,"content":{"membership":"join"},"unsigned":{"replaces_state":"$m@alice:x"}}`)
		k.requireExec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id) VALUES (1, '!room:x', 'm.room.member', $1, $2)`, user, id)
	}
	group := int64(1)
	members := func(request Request, chunk ...shown) (ids []string, got []event) {
		request.Room = talkRoom
		require.NoError(t, timeline.Read(t.Context(), k.store, func(ctx context.Context, snapshot *timeline.Snapshot) error {
			state, err := lazyMembers(ctx, snapshot, request, chunk)
			require.NoError(t, err)
			got = decodedAll(t, state)
			return nil
		}))
		for _, e := range got {
			ids = append(ids, e["event_id"].(string))
		}
		return ids, got
	}
	by := func(sender string, group *int64) shown {
		return shown{Event: timeline.Event{ID: "$x", Sender: sender, StateGroup: group}, membership: "join"}
	}
	ids, got := members(Request{}, by(bob, &group), by(alice, nil), by(bob, nil), by("@nobody:x", nil))
	require.Equal(t, []string{"$m" + alice, "$m" + bob}, ids)
	require.Equal(t, event{
		"type": "m.room.member", "state_key": bob, "sender": bob, "user_id": bob, "room_id": talkRoom, "event_id": "$m" + bob, "origin_server_ts": 1.0, "content": event{"membership": "join"},
		"replaces_state": "$m" + alice, "prev_content": event{"membership": "join"},
		"unsigned": event{"replaces_state": "$m" + alice, "prev_content": event{"membership": "join"}, "prev_sender": alice},
	}, got[1])

	// They have the format of the page.
	_, got = members(Request{Raw: true}, by(bob, &group))
	require.Equal(t, 1.0, got[0]["depth"])
	require.NotContains(t, got[0], "user_id")

	// Only the state at the first event counts, and it may be unknown.
	gone := int64(7)
	for _, chunk := range [][]shown{nil, {by(bob, nil), by(alice, &group)}, {by(bob, &gone)}, {by("@nobody:x", &group)}} {
		ids, _ := members(Request{}, chunk...)
		require.Empty(t, ids)
	}
	k.requireExec(`UPDATE event_json SET json = '[' WHERE event_id = $1`, "$m"+bob)
	ids, _ = members(Request{Raw: true}, by(bob, &group), by(carol, nil))
	require.Equal(t, []string{"$m" + carol}, ids)
	k.requireExec(`INSERT INTO rejections VALUES ($1, '', '')`, "$m"+carol)
	ids, _ = members(Request{}, by(bob, &group), by(carol, nil))
	require.Empty(t, ids)
}

// repeat adds events of bob that relate to an event: n of them, after the number first.
func (k *talk) repeat(name, relation, to string, first, n int) {
	k.t.Helper()
	k.requireExec(`
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, origin_server_ts, processed, outlier)
		SELECT $1 || i, '!room:x', 'm.room.message', '@bob:x', i, i, i, i, true, false FROM generate_series($2::int + 1, $2::int + $3::int) i`, name, first, n)
	k.requireExec(`
		INSERT INTO event_json (event_id, room_id, internal_metadata, json)
		SELECT $1 || i, '!room:x', '{}', '{"type":"m.room.message","sender":"@bob:x","origin_server_ts":1,"depth":1,"content":{}}' FROM generate_series($2::int + 1, $2::int + $3::int) i`, name, first, n)
	k.requireExec(`
		INSERT INTO event_relations (event_id, relates_to_id, relation_type)
		SELECT $1 || i, $4, $5 FROM generate_series($2::int + 1, $2::int + $3::int) i`, name, first, n, to, relation)
}

// TestMoreRelationsThanAreRead: of an event to which very many relate, those that were
// written last are read. All replies of a thread count, and the homeserver's note of the
// last one is used if that is a reply.
func TestMoreRelationsThanAreRead(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	p := k.say("$p", alice, "m.room.message", `{}`)
	const more = timeline.MaxRelated + 1000
	// Carol's reply is the last one, but was written first.
	k.repeat("$late", "m.thread", p, 500_000, 1)
	k.requireExec(`UPDATE events SET sender = $1 WHERE event_id = '$late500001'`, carol)
	k.repeat("$t", "m.thread", p, 1000, more)
	k.requireExec(`ANALYZE`)
	k.requireThread(alice, p, fmt.Sprint("$t", 1000+more), more+1, true)
	note := func(id string) {
		k.requireExec(`DELETE FROM threads`)
		k.requireExec(`INSERT INTO threads (room_id, thread_id, latest_event_id, topological_ordering, stream_ordering) VALUES ('!room:x', $1, $2, 1, 1)`, p, id)
	}
	note("$late500001")
	k.requireThread(alice, p, "$late500001", more+1, true)
	k.requireThread(carol, p, "$late500001", more+1, true)
	// An ignored sender's reply is not shown.
	k.requireExec(`INSERT INTO ignored_users VALUES ($1, $2)`, alice, carol)
	k.requireThread(alice, p, fmt.Sprint("$t", 1000+more), more+1, true)
	k.requireExec(`DELETE FROM event_relations WHERE event_id = '$late500001'`)
	k.requireThread(carol, p, fmt.Sprint("$t", 1000+more), more, false)

	q := k.say("$q", alice, "m.room.message", `{}`)
	k.repeat("$r", "m.reference", q, 20_000, more)
	k.requireExec(`ANALYZE`)
	chunk := k.relations(carol, q)["m.reference"].(event)["chunk"].([]any)
	require.Len(t, chunk, timeline.MaxRelated)
	require.Equal(t, fmt.Sprint("$r", 20_000+more), chunk[len(chunk)-1].(event)["event_id"])
	require.Greater(t, chunk[0].(event)["event_id"], fmt.Sprint("$r", 20_000+500), "the oldest are left out")
	e := k.say("$e", bob, "m.room.message", `{}`)
	k.repeat("$x", "m.replace", e, 40_000, more)
	k.requireExec(`ANALYZE`)
	require.Equal(t, fmt.Sprint("$x", 40_000+more), k.relations(carol, e)["m.replace"].(event)["event_id"])
}

// TestPieceEndsInRows: what relates to the events of a piece is bounded, but not that of its
// first event.
func TestPieceEndsInRows(t *testing.T) {
	t.Parallel()
	k := newTalk(t)
	var ids []string
	for i := range 4 {
		ids = append(ids, k.say(fmt.Sprint("$p", i), alice, "m.room.message", `{}`))
		if i != 1 {
			k.repeat(fmt.Sprint("$t", i, "-"), "m.thread", ids[i], 1000*(i+1), 600)
		}
	}
	k.requireExec(`ANALYZE`)
	for rows, want := range map[int]int{1: 2, 600: 2, 1199: 2, 1200: 3, 1799: 3, 1800: 4, 0: 4} {
		require.NoError(t, timeline.Read(t.Context(), k.store, func(ctx context.Context, snapshot *timeline.Snapshot) error {
			pages, err := snapshot.Pages(ctx, timeline.PageQuery{Room: talkRoom, Limit: 4})
			require.NoError(t, err)
			require.Equal(t, ids, idsOf(pages[0].Events))
			done, err := renderWithin(ctx, snapshot, Request{Room: talkRoom}, allShown(pages[0].Events), view{}, bounds{rows: rows})
			require.NoError(t, err)
			require.Len(t, done.events, want, rows)
			if want < 4 {
				require.Equal(t, ids[want-1], done.last.ID)
			}
			return nil
		}))
	}
}
