package messages

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/matrix"
)

// ages are what differs between two pages that are made one after the other.
var ages = regexp.MustCompile(`"age":-?\d+`)

func withoutAges(events []json.RawMessage) []string {
	texts := make([]string, len(events))
	for i, event := range events {
		texts[i] = ages.ReplaceAllString(string(event), `"age":0`)
	}
	return texts
}

// requireSamePages walks through a room from page to page, and requires that both make the
// same pages. It returns the ids of the events.
func requireSamePages(t require.TestingT, ctx context.Context, plain, cached *Messages, request Request) (ids []string) {
	if !request.Backwards && request.From == nil {
		request.From = new(matrix.NewPageToken(matrix.Token{Stream: math.MinInt64}))
	}
	for range 100 {
		want, wantErr := plain.Page(ctx, request)
		got, err := cached.Page(ctx, request)
		if wantErr != nil {
			require.ErrorIs(t, err, ErrForbidden)
			require.ErrorIs(t, wantErr, ErrForbidden)
			return nil
		}
		require.NoError(t, err)
		require.Equal(t, withoutAges(want.Chunk), withoutAges(got.Chunk))
		require.Equal(t, withoutAges(want.State), withoutAges(got.State))
		require.Equal(t, place(&want.Start), place(&got.Start))
		require.Equal(t, place(want.End), place(got.End))
		for _, raw := range got.Chunk {
			var e struct {
				ID string `json:"event_id"`
			}
			require.NoError(t, json.Unmarshal(raw, &e))
			ids = append(ids, e.ID)
		}
		if request.From = got.End; got.End == nil {
			return ids
		}
	}
	require.Fail(t, "the walk has no end")
	return nil
}

// A changingRoom is a room in which everything changes that may change beside readers.
type changingRoom struct {
	*writtenRoom
	n int
}

func (r *changingRoom) text() string {
	r.n++
	return fmt.Sprintf("text %04d", r.n)
}

// write writes an event as a homeserver does, with an age and a transaction.
func (r *changingRoom) write(eventType, sender string, key *string, content string) string {
	r.t.Helper()
	r.requireWrite(eventType, sender, key, content)
	id := r.last().ID
	r.requireExec(`
		UPDATE event_json SET internal_metadata = $2, json = replace(replace(json, '"unsigned":{', '"unsigned":{"age_ts":5,'), ',}', '}')
		WHERE event_id = $1`, id, fmt.Sprintf(`{"txn_id":"t%d","device_id":"D"}`, r.n))
	return id
}

// any draws one of the events.
func (r *changingRoom) any(t *rapid.T) string {
	return r.events[rapid.IntRange(0, len(r.events)-1).Draw(t, "event")].ID
}

// changes are what can happen to a room, by name.
func (r *changingRoom) changes(t *rapid.T) map[string]func() {
	senders := rapid.SampledFrom([]string{"@owner:x", "@bob:x", "@eve:y"})
	exec := r.requireExec
	return map[string]func(){
		"message": func() {
			r.write("m.room.message", senders.Draw(t, "sender"), nil, `{"body":"`+r.text()+`","url":"mxc://x/y"}`)
		},
		"edit": func() {
			to := r.any(t)
			id := r.write("m.room.message", senders.Draw(t, "sender"), nil,
				`{"body":"`+r.text()+`","m.relates_to":{"rel_type":"m.replace","event_id":"`+to+`"}}`)
			exec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, 'm.replace')`, id, to)
		},
		"reply": func() {
			to := r.any(t)
			id := r.write("m.room.message", senders.Draw(t, "sender"), nil,
				`{"body":"`+r.text()+`","m.relates_to":{"rel_type":"m.thread","event_id":"`+to+`"}}`)
			exec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, 'm.thread')`, id, to)
		},
		"relations gone": func() { exec(`DELETE FROM event_relations WHERE relates_to_id = $1`, r.any(t)) },
		"topic":          func() { r.write("m.room.topic", "@owner:x", new(""), `{"topic":"`+r.text()+`"}`) },
		"visibility": func() {
			value := rapid.SampledFrom([]string{"shared", "joined", "invited", "world_readable"}).Draw(t, "visibility")
			r.write("m.room.history_visibility", "@owner:x", new(""), `{"history_visibility":"`+value+`"}`)
		},
		"membership": func() {
			user, membership := senders.Draw(t, "user"), rapid.SampledFrom([]string{"join", "join", "leave"}).Draw(t, "membership")
			id := r.write("m.room.member", user, &user, `{"membership":"`+membership+`"}`)
			r.belong(user, membership, id)
		},
		"redaction": func() {
			target := r.any(t)
			id := r.write("m.room.redaction", senders.Draw(t, "sender"), nil, `{"redacts":"`+target+`"}`)
			exec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, $3)`, id, target, rapid.Bool().Draw(t, "recheck"))
		},
		"redactions gone": func() { exec(`DELETE FROM redactions WHERE redacts = $1`, r.any(t)) },
		"ban with redactions": func() {
			exec(`DELETE FROM room_ban_redactions WHERE room_id = $1`, r.id)
			exec(`INSERT INTO room_ban_redactions VALUES ($1, $2, $3, NULL)`, r.id, senders.Draw(t, "user"), r.any(t))
		},
		"ban gone": func() { exec(`DELETE FROM room_ban_redactions WHERE room_id = $1`, r.id) },
		"censored": func() {
			exec(`UPDATE event_json SET json = regexp_replace(json, '"body":"[^"]*"', '"pruned":true') WHERE event_id = $1`, r.any(t))
		},
		"rewritten in the same length": func() {
			exec(`UPDATE event_json SET json = regexp_replace(json, 'text \d{4}', $2) WHERE event_id = $1`, r.any(t), r.text())
		},
		"metadata": func() {
			exec(`UPDATE event_json SET internal_metadata = $2 WHERE event_id = $1`, r.any(t),
				rapid.SampledFrom([]string{`{}`, `{"soft_failed":true}`, `{"txn_id":"u","device_id":"D"}`, `{"policy_server_spammy":true}`}).Draw(t, "metadata"))
		},
		"written twice": func() {
			id := r.any(t)
			exec(`WITH old AS (DELETE FROM event_json WHERE event_id = $1 RETURNING *)
				SELECT FROM old`, id)
			exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
				SELECT $1, $2, '{}', $3, 3`, id, r.id, fmt.Sprintf(`{"type":"m.room.message","sender":"@bob:x","content":{"body":%q},"origin_server_ts":1,"depth":1}`, r.text()))
		},
		"rewritten, and rolled back": func() {
			exec(`DO $$ BEGIN
				UPDATE event_json SET json = '{}' WHERE room_id = '` + r.id + `';
				RAISE EXCEPTION 'undone';
				EXCEPTION WHEN raise_exception THEN NULL;
			END $$`)
		},
		"text gone": func() { exec(`DELETE FROM event_json WHERE event_id = $1`, r.any(t)) },
		"deleted": func() {
			exec(`WITH gone AS (DELETE FROM event_json WHERE event_id = $1) DELETE FROM events WHERE event_id = $1`, r.any(t))
		},
		"row deleted": func() { exec(`DELETE FROM events WHERE event_id = $1`, r.any(t)) },
		"rejected": func() {
			exec(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, '', '') ON CONFLICT DO NOTHING`, r.any(t))
		},
		"rejected by the column": func() { exec(`UPDATE events SET rejection_reason = 'x' WHERE event_id = $1`, r.any(t)) },
		"no longer rejected":     func() { exec(`DELETE FROM rejections`) },
		"outlier":                func() { exec(`UPDATE events SET outlier = NOT outlier WHERE event_id = $1`, r.any(t)) },
		"erased":                 func() { exec(`INSERT INTO erased_users VALUES ($1) ON CONFLICT DO NOTHING`, senders.Draw(t, "user")) },
		"erased no more":         func() { exec(`DELETE FROM erased_users`) },
		"ignored": func() {
			exec(`INSERT INTO ignored_users VALUES ($1, $2) ON CONFLICT DO NOTHING`, senders.Draw(t, "ignorer"), senders.Draw(t, "ignored"))
		},
		"ignored no more": func() { exec(`DELETE FROM ignored_users`) },
		"version": func() {
			exec(`UPDATE rooms SET room_version = $2 WHERE room_id = $1`, r.id, rapid.SampledFrom([]string{"10", "11"}).Draw(t, "version"))
		},
		"state groups stored in full": func() { r.storeInFull() },
		"state group again": func() {
			// As when the ids of groups begin again: this group says something else. No
			// other group was a difference to one that a purge has deleted.
			r.storeInFull()
			other := rapid.IntRange(0, len(r.events)-1).Draw(t, "other")
			group := *r.events[rapid.IntRange(0, len(r.events)-1).Draw(t, "one")].StateGroup
			exec(`DELETE FROM state_groups WHERE id = $1`, group)
			exec(`DELETE FROM state_groups_state WHERE state_group = $1`, group)
			exec(`DELETE FROM state_group_edges WHERE state_group = $1`, group)
			if rapid.Bool().Draw(t, "gone") {
				return
			}
			exec(`INSERT INTO state_groups (id, room_id, event_id) VALUES ($1, $2, '')`, group, r.id)
			exec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
				SELECT $1, $2, s.type, s.state_key, s.event_id FROM state_groups_state s WHERE s.state_group = $3`, group, r.id, *r.events[other].StateGroup)
			if before := r.events[0].StateGroup; *before != group {
				exec(`INSERT INTO state_group_edges VALUES ($1, $2)`, group, *before)
			}
		},
	}
}

// storeInFull rewrites all groups as tools do that compress the state: with other
// differences, and the same contents.
func (r *changingRoom) storeInFull() {
	r.requireExec(`
		WITH RECURSIVE chain AS (
			SELECT g.id, g.id AS at, 0 AS distance FROM state_groups g WHERE g.room_id = $1
			UNION ALL
			SELECT c.id, e.prev_state_group, distance + 1 FROM chain c JOIN state_group_edges e ON e.state_group = c.at WHERE distance < 1000
		), whole AS (
			SELECT DISTINCT ON (c.id, s.type, s.state_key) c.id, s.type, s.state_key, s.event_id
			FROM chain c JOIN state_groups_state s ON s.state_group = c.at
			ORDER BY c.id, s.type, s.state_key, c.at DESC
		), cut AS (
			DELETE FROM state_group_edges WHERE state_group IN (SELECT id FROM state_groups WHERE room_id = $1)
		)
		INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
		SELECT w.id, $1, w.type, w.state_key, w.event_id FROM whole w
		WHERE NOT EXISTS (SELECT FROM state_groups_state s WHERE s.state_group = w.id AND s.type = w.type AND s.state_key = w.state_key)`, r.id)
}

// readers are who reads a changingRoom.
var readers = []Reader{
	{UserID: "@owner:x", DeviceID: "D"}, {UserID: "@owner:x", Admin: true}, {UserID: "@bob:x", DeviceID: "E"}, {UserID: "@eve:y"}, {UserID: "@stranger:x"},
}

// drawRequest draws how a room is read.
func drawRequest(t *rapid.T, room string) Request {
	request := Request{
		Room: room, Backwards: rapid.Bool().Draw(t, "backwards"), Limit: rapid.IntRange(1, 20).Draw(t, "limit"),
		Reader: rapid.SampledFrom(readers).Draw(t, "reader"), Raw: rapid.SampledFrom([]bool{false, false, false, true}).Draw(t, "raw"),
	}
	request.All = request.Reader.Admin
	if filter := rapid.SampledFrom([]string{"", "", `{"lazy_load_members":true}`, `{"contains_url":true}`, `{"not_types":["m.room.topic"]}`}).Draw(t, "filter"); filter != "" {
		request.Filter, _ = ParseFilter([]byte(filter))
	}
	return request
}

// TestCachedPagesAreThoseWithoutACache walks through rooms with a warm cache and without
// one, for all kinds of readers and requests, while everything changes that may change:
// by the homeserver, by purges and by psql.
func TestCachedPagesAreThoseWithoutACache(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	cached, rooms := New(h.db, Options{CacheBytes: 1 << 20}), 0
	tiny := New(h.db, Options{CacheBytes: 64 << 10}) // evicts all the time
	rapid.Check(t, func(rt *rapid.T) {
		rooms++
		for _, table := range []string{"erased_users", "ignored_users"} {
			h.requireExec(`DELETE FROM ` + table)
		}
		r := &changingRoom{writtenRoom: h.newRoom(fmt.Sprintf("!changing%d:x", rooms), "shared")}
		r.member("@bob:x", "join")
		changes := r.changes(rt)
		for range 8 {
			changes["message"]()
		}
		names := slices.Sorted(maps.Keys(changes))
		for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
			for range rapid.IntRange(1, 3).Draw(rt, "walks") {
				request := drawRequest(rt, r.id)
				requireSamePages(rt, h.ctx, h.Messages, cached, request)
				requireSamePages(rt, h.ctx, h.Messages, tiny, request)
			}
			for range rapid.IntRange(1, 4).Draw(rt, "changes") {
				changes[rapid.SampledFrom(names).Draw(rt, "change")]()
			}
		}
		request := drawRequest(rt, r.id)
		requireSamePages(rt, h.ctx, h.Messages, cached, request)
	})
	events, states := cached.CacheStats()
	require.Greater(t, events.Hits, events.Misses, "the cache was warm")
	require.Greater(t, states.Hits, states.Misses, "the cache was warm")
	events, _ = tiny.CacheStats()
	require.Positive(t, events.Evictions)
}

// TestAnEventThatIsGoneIsNeverShown deletes events and texts by plain statements, of
// which no process learns, while a cache has them.
func TestAnEventThatIsGoneIsNeverShown(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{CacheBytes: 1 << 20})
	plain := New(h.db, Options{})
	const text = `DELETE FROM event_json WHERE event_id = $1`
	for name, delete := range map[string]string{
		"event":         `WITH t AS (DELETE FROM event_json WHERE event_id = $1) DELETE FROM events WHERE event_id = $1`,
		"row of events": `DELETE FROM events WHERE event_id = $1`,
		"text":          text, "text in a room of an unknown version": text,
	} {
		r := &changingRoom{writtenRoom: h.newRoom("!"+strings.ReplaceAll(name, " ", "")+":x", "shared")}
		if strings.Contains(name, "unknown") {
			// Elsewhere an event without a text does not have the format of the room, either.
			h.requireExec(`UPDATE rooms SET room_version = NULL WHERE room_id = $1`, r.id)
		}
		r.say("one")
		gone := r.write("m.room.message", "@owner:x", nil, `{"body":"secret"}`)
		r.say("two")
		for _, request := range []Request{
			{Room: r.id, Reader: Reader{UserID: "@owner:x"}, Backwards: true, Limit: 10},
			{Room: r.id, Reader: Reader{UserID: "@root:x", Admin: true}, All: true, Backwards: true, Limit: 10},
		} {
			for range 3 {
				require.Contains(t, requireSamePages(t, h.ctx, plain, h.Messages, request), gone)
			}
		}
		before, _ := h.CacheStats()
		h.requireExec(delete, gone)
		for _, all := range []bool{true, false} {
			request := Request{Room: r.id, Reader: Reader{UserID: "@owner:x"}, All: all, Backwards: true, Limit: 10}
			require.NotContains(t, requireSamePages(t, h.ctx, plain, h.Messages, request), gone, name)
		}
		after, _ := h.CacheStats()
		require.Greater(t, after.Hits, before.Hits, "the other events are still in the cache")
	}
}

// TestWhatMayChangeIsReadAgain changes one thing beside a warm cache, in each way in which the
// homeserver may, and requires that it is on the next page of at least one reader.
func TestWhatMayChangeIsReadAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{CacheBytes: 1 << 20})
	plain, rooms := New(h.db, Options{}), 0
	// The second reader joins after the messages of @eve:y and @bob:x.
	all := []Reader{{UserID: "@owner:x"}, {UserID: "@late:x"}, {UserID: "@bob:x", DeviceID: "D"}, {UserID: "@root:x", Admin: true}}
	for name, change := range map[string]func(r *changingRoom, message, redaction string){
		"redaction": func(r *changingRoom, message, _ string) {
			id := r.write("m.room.redaction", "@owner:x", nil, `{"redacts":"`+message+`"}`)
			r.requireExec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, false)`, id, message)
		},
		"redaction of a ban": func(r *changingRoom, message, redaction string) {
			r.requireExec(`INSERT INTO room_ban_redactions VALUES ($1, '@eve:y', $2, NULL)`, r.id, redaction)
		},
		"edit": func(r *changingRoom, message, _ string) {
			id := r.write("m.room.message", "@eve:y", nil, `{"body":"text 9999","m.new_content":{"body":"text 9999"},"m.relates_to":{"rel_type":"m.replace","event_id":"`+message+`"}}`)
			r.requireExec(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, 'm.replace')`, id, message)
		},
		"censored": func(r *changingRoom, message, _ string) {
			r.requireExec(`UPDATE event_json SET json = regexp_replace(json, '"body":"[^"]*"', '"pruned":true') WHERE event_id = $1`, message)
		},
		"erased": func(r *changingRoom, _, _ string) { r.requireExec(`INSERT INTO erased_users VALUES ('@eve:y')`) },
		"ignored": func(r *changingRoom, _, _ string) {
			r.requireExec(`INSERT INTO ignored_users VALUES ('@owner:x', '@eve:y')`)
		},
		"rejected": func(r *changingRoom, message, _ string) {
			r.requireExec(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, '', '')`, message)
		},
		"version": func(r *changingRoom, _, _ string) {
			r.requireExec(`UPDATE rooms SET room_version = '10' WHERE room_id = $1`, r.id)
		},
		"transaction": func(r *changingRoom, _, redaction string) {
			r.requireExec(`UPDATE event_json SET internal_metadata = '{"txn_id":"other","device_id":"D"}' WHERE event_id = $1`, redaction)
		},
		"soft failure": func(r *changingRoom, message, _ string) {
			r.requireExec(`UPDATE event_json SET internal_metadata = '{"soft_failed":true}' WHERE event_id = $1`, message)
		},
		"group": func(r *changingRoom, _, _ string) {
			// No group says any more who may see the events before it.
			r.requireExec(`DELETE FROM state_group_edges WHERE state_group IN (SELECT id FROM state_groups WHERE room_id = $1)`, r.id)
			r.requireExec(`DELETE FROM state_groups_state WHERE room_id = $1`, r.id)
			r.requireExec(`DELETE FROM state_groups WHERE room_id = $1`, r.id)
		},
		"visibility's event": func(r *changingRoom, _, _ string) {
			r.requireExec(`UPDATE event_json SET json = replace(json, '"shared"', '"joined"') WHERE event_id = $1`, r.state[matrix.StateKey{Type: "m.room.history_visibility"}])
		},
	} {
		rooms++
		for _, table := range []string{"erased_users", "ignored_users"} {
			h.requireExec(`DELETE FROM ` + table)
		}
		r := &changingRoom{writtenRoom: h.newRoom(fmt.Sprintf("!readagain%d:x", rooms), "shared")}
		r.member("@bob:x", "join")
		message := r.write("m.room.message", "@eve:y", nil, `{"body":"text 0001"}`)
		other := r.write("m.room.message", "@bob:x", nil, `{"body":"text 0002"}`)
		redaction := r.write("m.room.redaction", "@bob:x", nil, `{"redacts":"`+other+`"}`)
		r.requireExec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, false)`, redaction, other)
		r.member("@late:x", "join")
		read := func() (pages []string) {
			t.Helper()
			for _, reader := range all {
				request := Request{Room: r.id, Reader: reader, All: reader.Admin, Backwards: true, Limit: 30}
				requireSamePages(t, h.ctx, plain, h.Messages, request)
				page, err := plain.Page(h.ctx, request)
				require.NoError(t, err)
				pages = append(pages, strings.Join(withoutAges(page.Chunk), "\n"))
			}
			return pages
		}
		read()
		before := read()
		change(r, message, redaction)
		require.NotEqual(t, before, read(), "%s: or the test would prove nothing", name)
	}
}

// TestLargeTextsAreNotKept reads a page of events that would fill the cache, beside one that
// fits.
func TestLargeTextsAreNotKept(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{CacheBytes: 8 << 20})
	r := &changingRoom{writtenRoom: h.newRoom("!large:x", "shared")}
	r.say("small")
	for range 5 {
		r.say(strings.Repeat("x", 60_000))
	}
	request := Request{Room: r.id, Reader: Reader{UserID: "@owner:x"}, Backwards: true, Limit: 20}
	for range 3 {
		require.NotEmpty(t, requireSamePages(t, h.ctx, New(h.db, Options{}), h.Messages, request))
	}
	events, _ := h.CacheStats()
	require.Positive(t, events.Hits, "small texts are kept")
	require.Less(t, events.Bytes, int64(60_000))
}

// TestWhatACacheKeepsIsCounted reads rooms until a cache is full of texts, of what was
// prepared of them, and of states, which share its bytes.
func TestWhatACacheKeepsIsCounted(t *testing.T) {
	t.Parallel()
	const bytes, events, length = 1 << 20, 30, 3000
	h := newHouse(t, Options{CacheBytes: bytes})
	plain := New(h.db, Options{})
	r := &changingRoom{writtenRoom: h.newRoom("!large:x", "shared")}
	for range events {
		r.say(strings.Repeat("x", length))
	}
	walk := func(user string) {
		t.Helper()
		request := Request{Room: r.id, Reader: Reader{UserID: user}, Backwards: true, Limit: 40}
		require.NotEmpty(t, requireSamePages(t, h.ctx, plain, h.Messages, request))
	}
	walk("@owner:x")
	texts, _ := h.CacheStats()
	require.Greater(t, texts.Bytes, int64(2*events*length), "each as the homeserver has it, and as clients get it")

	small := New(h.db, Options{CacheBytes: 64 << 10}) // an entry may take a KiB
	r = &changingRoom{writtenRoom: h.newRoom("!small:x", "shared")}
	for n := range 20 {
		r.member(fmt.Sprintf("@user%d:x", n), "join")
		for range 5 {
			r.say("short")
		}
	}
	for n := range 20 {
		request := Request{Room: r.id, Reader: Reader{UserID: fmt.Sprintf("@user%d:x", n)}, Backwards: true, Limit: 50}
		require.NotEmpty(t, requireSamePages(t, h.ctx, plain, small, request))
		texts, states := small.CacheStats()
		require.LessOrEqual(t, texts.Bytes+states.Bytes, int64(64<<10))
	}
	texts, states := small.CacheStats()
	require.Positive(t, texts.Evictions)
	require.Positive(t, states.Bytes)
	require.Greater(t, texts.Bytes+states.Bytes, int64(60<<10), "it is full")
}

// TestARewrittenTextIsNoticed rewrites the text of an event in all ways, with the same
// length, and so that the new row takes the place of the old one in the table.
func TestARewrittenTextIsNoticed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{CacheBytes: 1 << 20})
	plain := New(h.db, Options{})
	r := &changingRoom{writtenRoom: h.newRoom("!room:x", "shared")}
	id := r.write("m.room.message", "@owner:x", nil, `{"body":"text 0000"}`)
	request := Request{Room: r.id, Reader: Reader{UserID: "@owner:x"}, Backwards: true, Limit: 10}
	body := func() any {
		t.Helper()
		for range 2 {
			require.Contains(t, requireSamePages(t, h.ctx, plain, h.Messages, request), id)
		}
		page, err := h.Page(h.ctx, request)
		require.NoError(t, err)
		for _, e := range decodedAll(t, page.Chunk) {
			if e["event_id"] == id {
				return e["content"].(event)["body"]
			}
		}
		return nil
	}
	versions := map[string]bool{}
	version := func() string {
		var place string
		require.NoError(t, h.conn.QueryRow(h.ctx, `SELECT ctid::text FROM event_json WHERE event_id = $1`, id).Scan(&place))
		return place
	}
	require.Equal(t, "text 0000", body())
	first := version()
	again := false
	for n := 1; n < 40; n++ {
		text := fmt.Sprintf("text %04d", n)
		switch n % 4 {
		case 0:
			h.requireExec(`VACUUM FREEZE event_json`)
		case 1:
			h.requireExec(`VACUUM FULL event_json`)
		case 2:
			h.requireExec(`VACUUM event_json`)
		}
		if n%2 == 0 {
			h.requireExec(`UPDATE event_json SET json = regexp_replace(json, 'text \d{4}', $2) WHERE event_id = $1`, id, text)
		} else {
			h.requireExec(`
				WITH old AS (DELETE FROM event_json WHERE event_id = $1 RETURNING *)
				INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
				SELECT event_id || 'x', room_id, internal_metadata, regexp_replace(json, 'text \d{4}', $2), format_version FROM old`, id, text)
			h.requireExec(`UPDATE event_json SET event_id = $1 WHERE event_id = $1 || 'x'`, id)
		}
		require.Equal(t, text, body())
		again = again || versions[version()]
		versions[version()] = true
	}
	require.True(t, again, "a place in the table was taken again: %v after %s", versions, first)
}

// TestSeveralReadAndWriteAtOnce reads a room through one cache from several goroutines,
// while others write and delete. What was deleted before a page was asked for is not on it.
func TestSeveralReadAndWriteAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	cached := New(h.db, Options{CacheBytes: 256 << 10})
	r := &changingRoom{writtenRoom: h.newRoom("!room:x", "shared")}
	r.member("@bob:x", "join")
	const events = 120
	var ids []string
	for range events {
		ids = append(ids, r.write("m.room.message", "@bob:x", nil, `{"body":"`+r.text()+`"}`))
	}
	var deleted, rewritten atomic.Int64 // how many of the ids
	ctx, done := context.WithCancel(h.ctx)
	defer done()
	var group sync.WaitGroup
	failures := make(chan string, 100)
	for g, reader := range []Reader{{UserID: "@owner:x"}, {UserID: "@bob:x", DeviceID: "D"}, {UserID: "@owner:x", Admin: true}, {UserID: "@bob:x"}} {
		group.Go(func() {
			for ctx.Err() == nil {
				gone, censored := deleted.Load(), rewritten.Load()
				request := Request{Room: r.id, Reader: reader, All: reader.Admin, Backwards: g%2 == 0, Limit: 40 + g}
				for range 5 {
					page, err := cached.Page(h.ctx, request)
					if err != nil {
						failures <- err.Error()
						return
					}
					for _, raw := range page.Chunk {
						for _, id := range ids[:gone] {
							if strings.Contains(string(raw), `"event_id":"`+id+`"`) {
								failures <- "it was deleted before: " + string(raw)
								return
							}
						}
						for _, id := range ids[events-censored:] {
							if strings.Contains(string(raw), `"event_id":"`+id+`"`) && strings.Contains(string(raw), "text ") {
								failures <- "it was censored before: " + string(raw)
								return
							}
						}
					}
					if request.From = page.End; page.End == nil {
						break
					}
				}
			}
		})
	}
	for i := range events / 2 {
		r.requireExec(`WITH t AS (DELETE FROM event_json WHERE event_id = $1) DELETE FROM events WHERE event_id = $1`, ids[i])
		deleted.Add(1)
		r.requireExec(`UPDATE event_json SET json = regexp_replace(json, 'text \d{4}', 'gone 0000') WHERE event_id = $1`, ids[events-1-i])
		rewritten.Add(1)
	}
	done()
	group.Wait()
	close(failures)
	for failure := range failures {
		t.Error(failure)
	}
	for _, reader := range readers {
		requireSamePages(t, h.ctx, h.Messages, cached, Request{Room: r.id, Reader: reader, All: reader.Admin, Backwards: true, Limit: 50})
	}
}

// TestALongTransactionKeepsNothingStale has a transaction that began before a row was
// written, and writes the row later.
func TestALongTransactionKeepsNothingStale(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{CacheBytes: 1 << 20})
	plain := New(h.db, Options{})
	r := &changingRoom{writtenRoom: h.newRoom("!room:x", "shared")}
	other, err := pgx.ConnectConfig(h.ctx, h.conn.Config())
	require.NoError(t, err)
	defer func() { _ = other.Close(context.WithoutCancel(h.ctx)) }()
	tx, err := other.Begin(h.ctx)
	require.NoError(t, err)
	_, err = tx.Exec(h.ctx, `SELECT pg_current_xact_id()`)
	require.NoError(t, err)
	id := r.write("m.room.message", "@owner:x", nil, `{"body":"text 0000"}`)
	request := Request{Room: r.id, Reader: Reader{UserID: "@owner:x"}, Backwards: true, Limit: 10}
	for range 3 {
		require.Contains(t, requireSamePages(t, h.ctx, plain, h.Messages, request), id)
	}
	_, err = tx.Exec(h.ctx, `UPDATE event_json SET json = replace(json, 'text 0000', 'text 0001') WHERE event_id = $1`, id)
	require.NoError(t, err)
	requireSamePages(t, h.ctx, plain, h.Messages, request)
	require.NoError(t, tx.Commit(h.ctx))
	requireSamePages(t, h.ctx, plain, h.Messages, request)

	// Afterwards the rows are kept as usual.
	before, _ := h.CacheStats()
	requireSamePages(t, h.ctx, plain, h.Messages, request)
	after, _ := h.CacheStats()
	require.Greater(t, after.Hits, before.Hits)
	require.Equal(t, before.Misses, after.Misses)
}
