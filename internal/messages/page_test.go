package messages

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/roomgen"
	"lethe/internal/schema"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

const testRoom = "!room:x"

// A testBundle is a database that both we and the tests reach.
type testBundle struct {
	url  string
	db   *postgres.DB // as the role of an api
	conn *pgx.Conn
}

func setup(t *testing.T) *testBundle {
	t.Helper()
	return open(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
}

func open(t *testing.T, url string) *testBundle {
	t.Helper()
	db, err := postgres.Open(t.Context(), storetest.AsKnownColumns(t, url, schema.API), postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &testBundle{url: url, db: db, conn: conn}
}

func (b *testBundle) requireExec(t require.TestingT, sql string, args ...any) {
	_, err := b.conn.Exec(context.Background(), sql, args...)
	require.NoError(t, err)
}

// add adds an event to the room, whose id is its place, and whether it was rejected.
func (b *testBundle) add(t require.TestingT, depth, stream int64, rejected bool) string {
	id := fmt.Sprintf("$%d/%d", depth, stream)
	b.requireExec(t, `
		INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier)
		VALUES ($1, $2, 'm.room.message', '@a:x', $3, $3, $4, true, false)`, id, testRoom, depth, stream)
	b.requireExec(t, `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
		VALUES ($1, $2, '{}', '{"type":"m.room.message","sender":"@a:x","content":{},"origin_server_ts":1,"depth":1}', 3)`, id, testRoom)
	if rejected {
		b.requireExec(t, `INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, '', '')`, id)
	}
	return id
}

// requireSelected selects a page of the database's present content.
func (b *testBundle) requireSelected(t require.TestingT, options Options, request Request, left *matrix.Token) (s selection) {
	require.NoError(t, timeline.Read(context.Background(), b.db, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
		pages, err := snapshot.Pages(ctx, New(b.db, options).query(request, left))
		if err == nil {
			s, err = selectPage(ctx, snapshot, request, left, pages[0])
		}
		return err
	}))
	return s
}

func requireToken(t require.TestingT, text string) *matrix.PageToken {
	parsed, err := matrix.ParsePageToken(text)
	require.NoError(t, err)
	return &parsed
}

func idsOf(events []timeline.Event) (ids []string) {
	for _, event := range events {
		ids = append(ids, event.ID)
	}
	return ids
}

// place is the first component of a token.
func place(token *matrix.PageToken) string {
	if token == nil {
		return ""
	}
	first, _, _ := strings.Cut(token.String(), "_")
	return first
}

// TestSelectionIsSynapses selects the pages that a real Synapse was asked for.
func TestSelectionIsSynapses(t *testing.T) {
	t.Parallel()
	for _, recorded := range []struct {
		dump, reads string
		all, pages  int // of admins and of all
	}{
		{"synapse-1.160-corpus.dump", "synapse-1.160-reads.jsonl.gz", 57, 431},
		{"synapse-1.160-after.dump", "synapse-1.160-reads-after.jsonl.gz", 43, 238},
	} {
		t.Run(recorded.dump, func(t *testing.T) {
			t.Parallel()
			b := open(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", recorded.dump)))
			file, err := os.Open(devstacktest.Shared(t, "fixtures", recorded.reads))
			require.NoError(t, err)
			defer file.Close()
			unzipped, err := gzip.NewReader(file)
			require.NoError(t, err)
			lines := bufio.NewScanner(unzipped)
			lines.Buffer(nil, 64<<20)
			all, pages := 0, 0
			for lines.Scan() {
				var read struct {
					Path   string
					Status int
					Body   json.RawMessage
				}
				require.NoError(t, json.Unmarshal(lines.Bytes(), &read))
				asked, err := url.Parse(read.Path)
				require.NoError(t, err)
				parts := strings.Split(asked.Path, "/")
				if read.Status != 200 || parts[len(parts)-1] != "messages" {
					continue
				}
				var want struct {
					Chunk []struct {
						ID string `json:"event_id"`
					}
					Start, End *matrix.PageToken
				}
				require.NoError(t, json.Unmarshal(read.Body, &want), read.Path)
				request := requireRequest(t, asked)
				got := b.requireSelected(t, Options{}, request, nil)
				if !request.All && place(&got.start) != place(want.Start) {
					continue // one who has left
				}
				pages++
				require.Equal(t, place(want.Start), place(&got.start), read.Path)
				require.Equal(t, place(want.End), place(got.end), read.Path)
				ids := idsOf(request.Filter.passing(got.events))
				if request.All {
					all++
					require.Len(t, want.Chunk, len(ids), read.Path)
				}
				at := 0
				for _, event := range want.Chunk {
					next := slices.Index(ids[at:], event.ID)
					require.GreaterOrEqual(t, next, 0, "%s: %s", read.Path, event.ID)
					at += next + 1
				}
			}
			require.NoError(t, lines.Err())
			require.Equal(t, recorded.all, all)
			require.Equal(t, recorded.pages, pages)
		})
	}
}

// requireRequest reads a request as package httpapi does.
func requireRequest(t *testing.T, asked *url.URL) Request {
	query := asked.Query()
	parts := strings.Split(asked.Path, "/")
	request := Request{
		Room: parts[len(parts)-2], Backwards: query.Get("dir") == "b", All: strings.Contains(asked.Path, "/admin/"), Limit: 10,
	}
	for key, into := range map[string]**matrix.PageToken{"from": &request.From, "to": &request.To} {
		if query.Has(key) {
			*into = requireToken(t, query.Get(key))
		}
	}
	if query.Has("limit") {
		limit, err := strconv.Atoi(query.Get("limit"))
		require.NoError(t, err)
		request.Limit = min(limit, 1000)
	}
	filter, err := ParseFilter([]byte(query.Get("filter")))
	require.NoError(t, err)
	request.Filter = filter
	return request
}

// TestSelectionsFollowEachOther walks through a room from selection to selection:
// every event comes once, also those that cannot be read, and the last selection has
// no end.
func TestSelectionsFollowEachOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	room, err := roomgen.Generate(t.Context(), b.conn, roomgen.Room{Server: "x", ID: testRoom, Events: 150})
	require.NoError(t, err)
	// Some came later than what follows them, some at the same depth, some by
	// backfill; some were rejected, and some cannot be read.
	b.requireExec(t, `SET session_replication_role = replica`) // others reference their place
	b.requireExec(t, `UPDATE events SET topological_ordering = topological_ordering / 3, stream_ordering = stream_ordering * CASE WHEN depth % 5 = 0 THEN -1 ELSE 1 END`)
	b.requireExec(t, `UPDATE events SET rejection_reason = 'x' WHERE depth % 7 < 3`)
	b.requireExec(t, `UPDATE event_json SET json = '[' WHERE event_id IN (SELECT event_id FROM events WHERE depth % 11 = 0)`)
	rows, err := b.conn.Query(t.Context(), `
		SELECT event_id FROM events WHERE rejection_reason IS NULL AND type <> 'm.room.redaction' ORDER BY topological_ordering, stream_ordering`)
	require.NoError(t, err)
	forwards, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Greater(t, len(forwards), 50)

	rapid.Check(t, func(t *rapid.T) {
		want := slices.Clone(forwards)
		request := Request{Room: room.Room, All: true, Backwards: rapid.Bool().Draw(t, "backwards")}
		if request.Backwards {
			slices.Reverse(want)
		} else {
			request.From = new(matrix.NewPageToken(matrix.Token{Stream: math.MinInt64}))
		}
		var got []string
		for range 1000 {
			request.Limit = rapid.IntRange(1, 40).Draw(t, "limit")
			s := b.requireSelected(t, Options{}, request, nil)
			for _, event := range s.events {
				if event.Type != "m.room.redaction" {
					got = append(got, event.ID)
				}
			}
			if request.From = s.end; s.end == nil {
				break
			}
			require.True(t, strings.HasSuffix(s.end.String(), "_0_0_0_0_0_0_0_0_0"), s.end)
		}
		require.Nil(t, request.From)
		require.Equal(t, want, got)
	})
}

// TestEndOfSelection: history ends where nothing is left, not where nothing can be
// read.
func TestEndOfSelection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.requireExec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, testRoom)
	early := b.add(t, 1, 1, false)
	for i := range int64(3) {
		b.add(t, 2+i, 2+i, true)
	}
	latest := b.add(t, 5, 5, false)
	request := Request{Room: testRoom, All: true, Backwards: true, Limit: 2}
	next := func() selection {
		s := b.requireSelected(t, Options{}, request, nil)
		request.From = s.end
		return s
	}
	s := next()
	require.Equal(t, []string{latest}, idsOf(s.events))
	require.Equal(t, "t5-5", place(&s.start))
	require.Equal(t, "t4-3", place(s.end))
	s = next()
	require.Empty(t, s.events)
	require.Equal(t, "t2-1", place(s.end))
	s = next()
	require.Equal(t, []string{early}, idsOf(s.events))
	require.Equal(t, "t1-0", place(s.end), "the first event still has something before it")
	s = next()
	require.Empty(t, s.events)
	require.Nil(t, s.end)

	for text, want := range map[string]struct {
		request    Request
		start, end string
		events     int
	}{
		"nothing asked for":        {Request{Backwards: true}, "t5-5", "t5-5", 0},
		"nothing asked forwards":   {Request{From: requireToken(t, "t3-3_7")}, "t3-3", "t3-3", 0},
		"forwards":                 {Request{Limit: 9}, "s0", "t5-5", 2},
		"the live edge":            {Request{Limit: 9, From: requireToken(t, "s5")}, "s5", "", 0},
		"beyond it":                {Request{Limit: 9, From: requireToken(t, "t99-99")}, "t99-99", "", 0},
		"up to an event":           {Request{Limit: 9, To: requireToken(t, "t4-4")}, "s0", "t4-4", 1},
		"backwards to an event":    {Request{Limit: 9, Backwards: true, To: requireToken(t, "t4-4")}, "t5-5", "t5-4", 1},
		"backwards to the same":    {Request{Limit: 9, Backwards: true, To: requireToken(t, "t5-5")}, "t5-5", "", 0},
		"backwards to an arrival":  {Request{Limit: 9, Backwards: true, To: requireToken(t, "s4")}, "t5-5", "t5-4", 1},
		"backwards to a later one": {Request{Limit: 9, Backwards: true, From: requireToken(t, "t5-4"), To: requireToken(t, "s4")}, "t5-4", "", 0},
		"forwards to an older one": {Request{Limit: 9, From: requireToken(t, "s4"), To: requireToken(t, "t9-4")}, "s4", "", 0},
	} {
		want.request.Room = testRoom
		s := b.requireSelected(t, Options{}, want.request, nil)
		require.Equal(t, want.start, place(&s.start), text)
		require.Equal(t, want.end, place(s.end), text)
		require.Len(t, slices.DeleteFunc(s.events, func(e timeline.Event) bool { return e.ID != early && e.ID != latest }), want.events, text)
	}

	// What a client sent after the place comes back.
	s = b.requireSelected(t, Options{}, Request{Room: testRoom, Limit: 1, From: requireToken(t, "t0-0_1_m2~3.4_05")}, nil)
	require.Equal(t, "t0-0_1_m2~3.4_05", s.start.String())
	require.Equal(t, "t1-1_1_m2~3.4_05", s.end.String())

	// Two that cannot be read, and nothing beyond.
	b.requireExec(t, `UPDATE event_json SET json = 'null' WHERE event_id <> $1`, latest)
	s = b.requireSelected(t, Options{}, Request{Room: testRoom, Backwards: true, Limit: 2, From: requireToken(t, "t2-2")}, nil)
	require.Nil(t, s.end)

	// A filter that no event can pass, and a room that nobody knows.
	for _, text := range []string{`{"rooms":["!other"]}`, `{"types":7}`} {
		filter, err := ParseFilter([]byte(text))
		require.NoError(t, err)
		s = b.requireSelected(t, Options{}, Request{Room: testRoom, Backwards: true, Limit: 2, Filter: filter}, nil)
		require.Equal(t, "t5-5", place(&s.start))
		require.Nil(t, s.end)
		require.False(t, s.gap(2))
	}
	s = b.requireSelected(t, Options{}, Request{Room: "!no\x00", Backwards: true, Limit: 2}, nil)
	require.Equal(t, "t0-0", place(&s.start))
	require.Nil(t, s.end)
}

// TestPreviousPlace: there is one before every place but the first.
func TestPreviousPlace(t *testing.T) {
	t.Parallel()
	for at, want := range map[matrix.Token]*matrix.Token{
		{Topological: 3, Stream: 7}:             {Topological: 3, Stream: 6},
		{Topological: 3, Stream: math.MinInt64}: {Topological: 2, Stream: math.MaxInt64},
		{Topological: 0, Stream: math.MinInt64}: nil,
	} {
		got, ok := previous(at)
		require.Equal(t, want != nil, ok)
		if ok {
			require.Equal(t, *want, got)
		}
	}
}

// TestDepartedSelection: one who has left sees nothing beyond that.
func TestDepartedSelection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.requireExec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, testRoom)
	for i := int64(1); i <= 6; i++ {
		b.add(t, i, i, false)
	}
	late := b.add(t, 4, 9, false) // at the depth of the leave, but after it
	left := &matrix.Token{Topological: 4, Stream: 4}
	for text, want := range map[string]struct {
		request Request
		start   string
		first   string
		last    string
	}{
		"from the end":              {Request{Backwards: true}, "t4-4", "$4/4", "$1/1"},
		"from beyond":               {Request{Backwards: true, From: requireToken(t, "t6-6_1_2")}, "t4-4", "$4/4", "$1/1"},
		"from the same depth":       {Request{Backwards: true, From: requireToken(t, "t4-20")}, "t4-20", "$4/4", "$1/1"},
		"from before":               {Request{Backwards: true, From: requireToken(t, "t3-3")}, "t3-3", "$3/3", "$1/1"},
		"from a live place":         {Request{Backwards: true, From: requireToken(t, "s5")}, "t4-4", "$4/4", "$1/1"},
		"from one with older ones":  {Request{Backwards: true, From: requireToken(t, "s9")}, "s9", "$4/4", "$1/1"},
		"from a live place earlier": {Request{Backwards: true, From: requireToken(t, "s2")}, "s2", "$2/2", "$1/1"},
		"forwards":                  {Request{}, "s0", "$1/1", "$4/4"},
		"forwards to beyond":        {Request{To: requireToken(t, "t6-6")}, "s0", "$1/1", "$4/4"},
		"forwards to before":        {Request{To: requireToken(t, "t2-2")}, "s0", "$1/1", "$2/2"},
	} {
		want.request.Room, want.request.Limit = testRoom, 20
		if text == "from a live place" { // the least depth of what came at 5 or later
			b.requireExec(t, `UPDATE events SET topological_ordering = 5 WHERE event_id = $1`, late)
		}
		s := b.requireSelected(t, Options{}, want.request, left)
		b.requireExec(t, `UPDATE events SET topological_ordering = 4 WHERE event_id = $1`, late)
		require.Equal(t, want.start, place(&s.start), text)
		ids := idsOf(s.events)
		require.Equal(t, want.first, ids[0], text)
		require.Equal(t, want.last, ids[len(ids)-1], text)
		require.NotContains(t, ids, late, text)
	}
	s := b.requireSelected(t, Options{DepartedSeeLater: true}, Request{Room: testRoom, Limit: 20}, left)
	require.Len(t, s.events, 7)
	s = b.requireSelected(t, Options{DepartedSeeLater: true}, Request{Room: testRoom, Limit: 20, Backwards: true}, left)
	require.Len(t, s.events, 4)
}

func TestGaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit  int
		depths []int64
		want   bool
	}{
		{0, nil, false},
		{1, nil, true},
		{3, []int64{5, 4, 3}, false},
		{4, []int64{5, 4, 3}, true},
		{3, []int64{5, 5, 5}, false},
		{3, []int64{5, 2, 1}, true},
		{3, []int64{7, 5, 3}, false},
		{5, []int64{1, 3, 5, 5, 7}, false},
		{5, []int64{1, 3, 5, 7, 9}, true},
		{2, []int64{math.MaxInt64, 0}, true},
	} {
		var s selection
		for _, depth := range c.depths {
			s.events = append(s.events, timeline.Event{Topological: depth})
		}
		require.Equal(t, c.want, s.gap(c.limit), "%v of %d", c.depths, c.limit)
		s.complete = true
		require.False(t, s.gap(c.limit), "nothing could come")
	}
}

// A backfiller is other servers, of which some history comes.
type backfiller struct {
	asked []string
	come  func()
	err   error
}

func (b *backfiller) Backfill(ctx context.Context, room string, reader Reader, before matrix.PageToken, limit int) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("it waits for ever")
	}
	b.asked = append(b.asked, fmt.Sprintf("%s as %s before %s: %d", room, reader.UserID, before, limit))
	b.come()
	return b.err
}

// TestPageBackfills: where history is missing that other servers have, they are asked
// once, and the page is of what is there then, whatever they answer. It is rejected
// events here, so that nothing is to be shown.
func TestPageBackfills(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	b.requireExec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, testRoom)
	b.add(t, 7, 7, true)
	var log strings.Builder
	servers := &backfiller{err: errors.New("no server answers"), come: func() {
		b.add(t, 6, -1, true)
		b.add(t, 5, -2, true)
		b.add(t, 8, 8, true) // live, meanwhile
	}}
	m := New(b.db, Options{Backfill: servers, Log: slog.New(slog.NewTextHandler(&log, nil))})
	request := Request{Room: testRoom, Reader: Reader{UserID: "@a:x", AccessToken: "secret"}, All: true, Backwards: true, Limit: 2}

	page, err := m.Page(ctx, request)
	require.NoError(t, err)
	require.Empty(t, servers.asked, "nobody has more")
	require.Nil(t, page.End)

	b.requireExec(t, `INSERT INTO event_backward_extremities (event_id, room_id) VALUES ('$x', $1)`, testRoom)
	forwards := request
	forwards.Backwards = false
	_, err = m.Page(ctx, forwards)
	require.NoError(t, err)
	reached := request
	reached.To = requireToken(t, "t7-7")
	_, err = m.Page(ctx, reached)
	require.NoError(t, err)
	require.Empty(t, servers.asked)

	page, err = m.Page(ctx, request)
	require.NoError(t, err)
	require.Equal(t, []string{"!room:x as @a:x before t7-7_0_0_0_0_0_0_0_0_0: 2"}, servers.asked)
	require.Equal(t, "t7-7", place(&page.Start))
	require.Equal(t, "t6--2", place(page.End))
	require.NotNil(t, page.Chunk)
	require.Empty(t, page.Chunk)
	require.Contains(t, log.String(), "no server answers")
	require.NotContains(t, log.String(), "secret")

	page, err = New(b.db, Options{}).Page(ctx, request)
	require.NoError(t, err)
	require.Equal(t, "t8-8", place(&page.Start))

	request.Limit = math.MinInt
	page, err = m.Page(ctx, request)
	require.NoError(t, err)
	require.Equal(t, page.Start, *page.End)
	request.Limit = math.MaxInt
	b.requireExec(t, `DELETE FROM event_backward_extremities`)
	page, err = m.Page(ctx, request)
	require.NoError(t, err)
	require.Nil(t, page.End)
}

// TestSelectionAround: an event, half of the limit before it, the rest after it, and
// the state after the last.
func TestSelectionAround(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.requireExec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, testRoom)
	var ids []string
	for i := int64(0); i < 9; i++ {
		ids = append(ids, b.add(t, i/2, i, i == 6))
		b.requireExec(t, `INSERT INTO event_to_state_groups (event_id, state_group) VALUES ($1, $2)`, ids[i], 100+i)
		b.requireExec(t, `INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id) VALUES ($1, $2, 'm.room.topic', '', $3)`,
			100+i, testRoom, ids[i])
	}
	b.requireExec(t, `UPDATE events SET sender = '@b:x' WHERE event_id = $1`, ids[3])
	for _, user := range []string{"@a:x", "@c:x"} {
		b.requireExec(t, `INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id) VALUES (105, $1, 'm.room.member', $2, $3)`,
			testRoom, user, map[string]string{"@a:x": ids[0], "@c:x": ids[1]}[user])
	}
	b.requireExec(t, `INSERT INTO rooms (room_id, room_version) VALUES ('!other', '10')`)

	find := func(request ContextRequest) (a contextEvents, err error) {
		err = timeline.Read(t.Context(), b.db, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
			if request.Room == "" {
				request.Room = testRoom
			}
			a, err = selectContext(ctx, snapshot, request)
			return err
		})
		return a, err
	}
	filter := func(text string) Filter {
		f, err := ParseFilter([]byte(text))
		require.NoError(t, err)
		return f
	}
	for name, c := range map[string]struct {
		request       ContextRequest
		before, after []string
		start, end    matrix.Token
		state         []string
	}{
		"alone":               {ContextRequest{EventID: ids[4]}, nil, nil, matrix.Token{Topological: 2, Stream: 3}, matrix.Token{Topological: 2, Stream: 4}, []string{ids[4]}},
		"one":                 {ContextRequest{EventID: ids[4], Limit: 1}, nil, []string{ids[5]}, matrix.Token{Topological: 2, Stream: 3}, matrix.Token{Topological: 2, Stream: 5}, []string{ids[0], ids[1], ids[5]}},
		"the same depth":      {ContextRequest{EventID: ids[3], Limit: 2}, []string{ids[2]}, []string{ids[4]}, matrix.Token{Topological: 1, Stream: 1}, matrix.Token{Topological: 2, Stream: 4}, []string{ids[4]}},
		"one is left out":     {ContextRequest{EventID: ids[4], Limit: 4}, []string{ids[3], ids[2]}, []string{ids[5]}, matrix.Token{Topological: 1, Stream: 1}, matrix.Token{Topological: 3, Stream: 6}, []string{ids[0], ids[1], ids[5]}},
		"all":                 {ContextRequest{EventID: ids[4], Limit: 50}, []string{ids[3], ids[2], ids[1], ids[0]}, []string{ids[5], ids[7], ids[8]}, matrix.Token{Topological: 0, Stream: -1}, matrix.Token{Topological: 4, Stream: 8}, []string{ids[8]}},
		"from one sender":     {ContextRequest{EventID: ids[4], Limit: 4, Filter: filter(`{"senders":["@b:x"]}`)}, []string{ids[3]}, nil, matrix.Token{Topological: 1, Stream: 2}, matrix.Token{Topological: 2, Stream: 4}, nil},
		"of one type":         {ContextRequest{EventID: ids[4], Limit: 1, Filter: filter(`{"types":["m.room.message"],"not_senders":["@b:x"]}`)}, nil, []string{ids[5]}, matrix.Token{Topological: 2, Stream: 3}, matrix.Token{Topological: 2, Stream: 5}, []string{ids[0], ids[1], ids[5]}},
		"of no type":          {ContextRequest{EventID: ids[4], Limit: 1, Filter: filter(`{"not_types":["m.room.message"]}`)}, nil, nil, matrix.Token{Topological: 2, Stream: 3}, matrix.Token{Topological: 2, Stream: 4}, nil},
		"with an URL":         {ContextRequest{EventID: ids[4], Limit: 1, Filter: filter(`{"contains_url":true}`)}, nil, nil, matrix.Token{Topological: 2, Stream: 3}, matrix.Token{Topological: 2, Stream: 4}, nil},
		"none of the room":    {ContextRequest{EventID: ids[4], Limit: 4, Filter: filter(`{"not_rooms":["!room:x"]}`)}, nil, nil, matrix.Token{Topological: 2, Stream: 3}, matrix.Token{Topological: 2, Stream: 4}, nil},
		"none that is read":   {ContextRequest{EventID: ids[4], Limit: 4, Filter: filter(`{"types":[]}`)}, nil, nil, matrix.Token{Topological: 1, Stream: 1}, matrix.Token{Topological: 3, Stream: 6}, nil},
		"members of the lazy": {ContextRequest{EventID: ids[4], Limit: 1, Filter: filter(`{"lazy_load_members":true}`)}, nil, []string{ids[5]}, matrix.Token{Topological: 2, Stream: 3}, matrix.Token{Topological: 2, Stream: 5}, []string{ids[0], ids[5]}},
	} {
		a, err := find(c.request)
		require.NoError(t, err, name)
		require.Equal(t, c.request.EventID, a.event.ID, name)
		require.Equal(t, c.before, idsOf(a.before), name)
		require.Equal(t, c.after, idsOf(a.after), name)
		require.Equal(t, c.start, a.start, name)
		require.Equal(t, c.end, a.end, name)
		require.ElementsMatch(t, c.state, idsOf(a.state), name)
	}
	for name, request := range map[string]ContextRequest{
		"unknown": {EventID: "$no"}, "no id": {}, "no text": {EventID: "\xff"}, "rejected": {EventID: ids[6]},
		"of another room": {EventID: ids[4], Room: "!other"}, "of no room": {EventID: ids[4], Room: "\x00"},
	} {
		_, err := find(request)
		require.ErrorIs(t, err, ErrEventNotFound, name)
	}
	_, err := New(b.db, Options{}).Context(t.Context(), ContextRequest{Room: testRoom, EventID: "$no", Limit: math.MinInt})
	require.ErrorIs(t, err, ErrEventNotFound)
	b.requireExec(t, `UPDATE event_json SET json = '{' WHERE event_id = $1`, ids[4])
	_, err = find(ContextRequest{EventID: ids[4]})
	require.ErrorIs(t, err, ErrEventNotFound)

	// Where nobody knows the state, and where no token leads.
	b.requireExec(t, `DELETE FROM event_to_state_groups`)
	b.requireExec(t, `UPDATE events SET topological_ordering = -4 WHERE event_id = $1`, ids[3])
	a, err := find(ContextRequest{EventID: ids[3], Limit: 2})
	require.NoError(t, err)
	require.Empty(t, a.state)
	require.Equal(t, []string{ids[1]}, idsOf(a.after))
}

// A page without events ends where the next one is to begin.
func TestEmptyPageEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!room:x", "shared")
	for from, want := range map[string]string{"t9-9": "t9-9", "": "t2-2"} {
		request := Request{Room: r.id, Reader: Reader{UserID: "@owner:x"}, Backwards: true, To: requireToken(t, "t2-2")}
		if from != "" {
			request.From, request.To = requireToken(t, from), nil
		}
		page, err := h.Page(h.ctx, request)
		require.NoError(t, err)
		require.Empty(t, page.Chunk)
		require.Equal(t, want, place(page.End))
	}
}

func TestUnreadableEventsAreLeftOut(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!room:x", "shared")
	r.say("said")
	id := r.last().ID
	before := len(h.requireEvents(r.id, "@owner:x"))
	const whole = `{"type":"m.room.message","sender":"@owner:x","content":{},"origin_server_ts":1,"depth":1}`
	for _, change := range []string{
		``, `- 'type'`, `|| '{"type":7}'`, `- 'sender'`, `|| '{"sender":5}'`, `- 'content'`, `|| '{"content":null}'`, `|| '{"content":"text"}'`,
		`- 'origin_server_ts'`, `|| '{"origin_server_ts":"5"}'`, `- 'depth'`, `|| '{"depth":1.5}'`, `|| '{"state_key":7}'`,
	} {
		h.requireExec(`UPDATE event_json SET json = ('`+whole+`'::jsonb `+change+`)::text WHERE event_id = $1`, id)
		left := h.requireEvents(r.id, "@owner:x")
		if change == "" {
			require.Len(t, left, before)
			continue
		}
		require.Len(t, left, before-1, change)
		_, err := h.Context(h.ctx, ContextRequest{Room: r.id, EventID: id})
		require.ErrorIs(t, err, ErrEventNotFound, change)
	}
}
