package timeline_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

// A timelineRow is an event as the model of a page knows it.
type timelineRow struct {
	id, room, kind     string
	sender             *string
	topological        int64
	stream             *int64
	outlier            bool
	writer             *string
	url                bool
	labels             []string
	relatesTo, related string // an event's id, and how
	lost               string // why it is no event to be read, "" if it is one
}

func (r timelineRow) at() matrix.Token {
	return matrix.Token{Topological: r.topological, Stream: *r.stream}
}

// A pageModel is the database, and its rows.
type pageModel struct {
	db   *postgres.DB
	conn *pgx.Conn
	rows []timelineRow
}

func newPageModel(t *testing.T) *pageModel {
	t.Helper()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	s, err := postgres.Open(t.Context(), url, postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	m := &pageModel{db: s, conn: conn}
	m.exec(t, `SET search_path = public`) // the role is called lethe, like a schema
	return m
}

func (m *pageModel) exec(t require.TestingT, sql string, args ...any) {
	_, err := m.conn.Exec(context.Background(), sql, args...)
	require.NoError(t, err)
}

var (
	pageKinds     = []string{"m.room.message", "m.room.topic", "m_room%topic", "mXroomYtopic", `m\room`, ""}
	pageSenders   = []string{"@a:x", "@b:x", "@c:y"}
	pageLabels    = []string{"#work", "#fun"}
	pageRelations = []string{"m.thread", "m.replace"}
	pageWriters   = []string{"master", "one", "two"} // 1, 2 and 3 in tokens
)

// maybe draws one of the values, or nil.
func maybe[V any](t *rapid.T, values []V, label string) *V {
	if i := rapid.IntRange(0, len(values)).Draw(t, label); i > 0 {
		return &values[i-1]
	}
	return nil
}

// draw fills the database with two rooms, whose depths and places in the stream have
// nothing to do with each other.
func (m *pageModel) draw(t *rapid.T) {
	streams := rapid.Permutation(func() (all []int64) {
		for n := int64(-12); n <= 24; n++ {
			all = append(all, n)
		}
		return all
	}()).Draw(t, "streams")
	m.rows = nil
	for i := range rapid.IntRange(0, len(streams)).Draw(t, "events") {
		r := timelineRow{
			id: fmt.Sprintf("$%d", i), stream: &streams[i],
			room:        rapid.SampledFrom([]string{weirdRoom, weirdRoom, weirdRoom, bystanderRoom}).Draw(t, "room"),
			kind:        rapid.SampledFrom(pageKinds).Draw(t, "type"),
			sender:      maybe(t, pageSenders, "sender"),
			topological: rapid.Int64Range(-1, 6).Draw(t, "depth"),
			outlier:     rapid.IntRange(0, 9).Draw(t, "outlier") == 9,
			writer:      maybe(t, pageWriters, "writer"),
			url:         rapid.Bool().Draw(t, "url"),
			labels:      rapid.SliceOfNDistinct(rapid.SampledFrom(pageLabels), 0, 2, rapid.ID).Draw(t, "labels"),
			lost:        rapid.SampledFrom([]string{"", "", "", "", "", "rejected", "refused", "no JSON", "format"}).Draw(t, "lost"),
		}
		if rapid.IntRange(0, 19).Draw(t, "nowhere") == 19 {
			r.stream = nil
		}
		if i > 0 && rapid.Bool().Draw(t, "relates") {
			r.relatesTo = fmt.Sprintf("$%d", rapid.IntRange(0, i-1).Draw(t, "to"))
			r.related = rapid.SampledFrom(pageRelations).Draw(t, "relation")
		}
		m.rows = append(m.rows, r)
	}

	var pipeline pgx.Batch
	for _, table := range []string{"event_labels", "event_relations", "rejections", "event_json", "event_to_state_groups", "events", "rooms"} {
		pipeline.Queue(`DELETE FROM ` + table)
	}
	pipeline.Queue(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10'), ($2, '1')`, weirdRoom, bystanderRoom)
	for i, r := range m.rows {
		var refused *string
		if r.lost == "refused" {
			refused = &r.lost
		}
		pipeline.Queue(`
			INSERT INTO events (event_id, room_id, type, sender, topological_ordering, depth, stream_ordering, processed, outlier,
				instance_name, contains_url, rejection_reason)
			VALUES ($1, $2, $3, $4, $5, $5, $6, true, $7, $8, $9, $10)`,
			r.id, r.room, r.kind, r.sender, r.topological, r.stream, r.outlier, r.writer, r.url, refused)
		pipeline.Queue(`INSERT INTO event_to_state_groups (event_id, state_group) VALUES ($1, $2)`, r.id, i)
		if r.lost == "rejected" {
			pipeline.Queue(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, '', '')`, r.id)
		}
		if r.lost != "no JSON" {
			format := map[string]*int{weirdRoom: new(3), bystanderRoom: nil}[r.room]
			if r.lost == "format" {
				format = new(4)
			}
			pipeline.Queue(`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) VALUES ($1, $2, '{}', $3, $4)`,
				r.id, r.room, `{"id":"`+r.id+`"}`, format)
		}
		for _, label := range r.labels {
			pipeline.Queue(`INSERT INTO event_labels (event_id, label, room_id, topological_ordering) VALUES ($1, $2, $3, $4)`,
				r.id, label, r.room, r.topological)
		}
		if r.related != "" {
			pipeline.Queue(`INSERT INTO event_relations (event_id, relates_to_id, relation_type) VALUES ($1, $2, $3)`, r.id, r.relatesTo, r.related)
		}
	}
	require.NoError(t, m.conn.SendBatch(context.Background(), &pipeline).Close())
}

// drawToken draws a bound of any kind, or none.
func drawToken(t *rapid.T, label string) *matrix.PageToken {
	n := func(label string) int64 { return rapid.Int64Range(-13, 25).Draw(t, label) }
	var text string
	switch rapid.IntRange(0, 3).Draw(t, label) {
	case 0:
		return nil
	case 1:
		text = matrix.Token{Topological: rapid.Int64Range(0, 7).Draw(t, label+" depth"), Stream: n(label + " stream")}.String()
	case 2:
		text = fmt.Sprintf("s%d", n(label+" stream"))
	case 3:
		least := n(label + " stream")
		text = fmt.Sprintf("m%d~", least)
		for writer := range 4 { // the last of them is unknown
			if more := rapid.Int64Range(0, 9).Draw(t, label+" writer"); more > 0 {
				text += fmt.Sprintf("~%d.%d", writer+1, least+more)
			}
		}
	}
	token, err := matrix.ParsePageToken(text)
	require.NoError(t, err)
	return &token
}

// upTo reports whether an event is at a token or before it.
func upTo(r timelineRow, token matrix.PageToken) bool {
	if at, historic := token.Historic(); historic {
		return !less(at, r.at())
	}
	writer := "master"
	if r.writer != nil {
		writer = *r.writer
	}
	position := token.Stream()
	for _, w := range token.Writers() {
		if int(w.Writer) == slices.Index(pageWriters, writer)+1 {
			position = w.Stream
		}
	}
	return *r.stream <= position
}

func less(a, b matrix.Token) bool {
	return cmp.Or(cmp.Compare(a.Topological, b.Topological), cmp.Compare(a.Stream, b.Stream)) < 0
}

// drawFilter draws a filter with few parts, of which each wants something.
func drawFilter(t *rapid.T) (f timeline.EventFilter) {
	list := func(values []string, label string) []string {
		return rapid.SliceOfN(rapid.SampledFrom(values), 1, 2).Draw(t, label)
	}
	patterns := []string{"m.room.*", "*_room%*", `m\*`, "*", "m.*c", "*X*Y*"}
	for range rapid.IntRange(0, 2).Draw(t, "parts") {
		switch rapid.IntRange(0, 10).Draw(t, "part") {
		case 0:
			f.Types = list(pageKinds, "types")
		case 1:
			f.TypePatterns = list(patterns, "patterns")
		case 2:
			f.NotTypes = list(pageKinds, "types")
		case 3:
			f.NotTypePatterns = list(patterns, "patterns")
		case 4:
			f.Senders = list(pageSenders, "senders")
		case 5:
			f.NotSenders = list(pageSenders, "senders")
		case 6:
			f.ContainsURL = true
		case 7:
			f.Labels = list(pageLabels, "labels")
		case 8:
			f.RelatedBySenders = list(pageSenders, "senders")
		case 9:
			f.RelatedByTypes = list(pageRelations, "relations")
		case 10:
			if rapid.Bool().Draw(t, "not") {
				f.NotRelationTypes = list(pageRelations, "relations")
			} else {
				f.RelationTypes = list(pageRelations, "relations")
			}
		}
	}
	return f
}

// asPatterns are the texts with a * as the database is asked for them.
func asPatterns(f timeline.EventFilter) timeline.EventFilter {
	for _, list := range []*[]string{&f.TypePatterns, &f.NotTypePatterns} {
		*list = slices.Clone(*list)
		for i, text := range *list {
			(*list)[i] = timeline.PatternOf(text)
		}
	}
	return f
}

// wants is what a filter wants; its patterns are texts with a *.
func (m *pageModel) wants(f timeline.EventFilter, r timelineRow) bool {
	matches := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool {
			expression := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`)
			return regexp.MustCompile(`^(?s:` + expression + `)$`).MatchString(r.kind)
		})
	}
	sentBy := func(r timelineRow, senders []string) bool {
		return r.sender != nil && slices.Contains(senders, *r.sender)
	}
	related := slices.ContainsFunc(m.rows, func(child timelineRow) bool {
		return child.relatesTo == r.id &&
			(f.RelatedBySenders == nil || sentBy(child, f.RelatedBySenders)) &&
			(f.RelatedByTypes == nil || slices.Contains(f.RelatedByTypes, child.related))
	})
	return (f.Types == nil && f.TypePatterns == nil || slices.Contains(f.Types, r.kind) || matches(f.TypePatterns)) &&
		!slices.Contains(f.NotTypes, r.kind) && !matches(f.NotTypePatterns) &&
		(f.Senders == nil || sentBy(r, f.Senders)) && !sentBy(r, f.NotSenders) &&
		(!f.ContainsURL || r.url) &&
		(f.Labels == nil || slices.ContainsFunc(f.Labels, func(label string) bool { return slices.Contains(r.labels, label) })) &&
		(f.RelatedBySenders == nil && f.RelatedByTypes == nil || related) &&
		(f.RelationTypes == nil || slices.Contains(f.RelationTypes, r.related)) &&
		!slices.Contains(f.NotRelationTypes, r.related)
}

// page is the answer to a query. Its patterns are texts with a *.
func (m *pageModel) page(q timeline.PageQuery) (ids []string, last *matrix.Token, more bool) {
	var found []timelineRow
	for _, r := range m.rows {
		if r.room == q.Room && !r.outlier && r.stream != nil && r.topological >= 0 &&
			(q.After == nil || !upTo(r, *q.After)) && (q.UpTo == nil || upTo(r, *q.UpTo)) &&
			(q.Ceiling == nil || !less(*q.Ceiling, r.at())) && m.wants(q.Filter, r) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b timelineRow) int {
		if q.Backwards {
			a, b = b, a
		}
		return cmp.Or(cmp.Compare(a.topological, b.topological), cmp.Compare(*a.stream, *b.stream))
	})
	if q.Limit <= 0 {
		return nil, nil, false
	}
	more = len(found) > q.Limit
	found = found[:min(len(found), q.Limit)]
	for _, r := range found {
		last = new(r.at())
		if r.lost == "" {
			ids = append(ids, r.id)
		}
	}
	return ids, last, more
}

// pages reads these pages.
func (m *pageModel) pages(t require.TestingT, queries ...timeline.PageQuery) (pages []timeline.Page) {
	err := timeline.Read(context.Background(), m.db, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
		pages, err = snapshot.Pages(ctx, queries...)
		return err
	})
	require.NoError(t, err)
	require.Len(t, pages, len(queries))
	return pages
}

func idsOf(events []timeline.Event) (ids []string) {
	for _, event := range events {
		ids = append(ids, event.ID)
	}
	return ids
}

// TestPagesMatchTheModel asks for pages of small rooms of every shape, with bounds of
// all kinds, and walks from page to page.
func TestPagesMatchTheModel(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	m.exec(t, `CREATE TABLE instance_map (instance_id integer PRIMARY KEY, instance_name text NOT NULL)`)
	for i, name := range pageWriters {
		m.exec(t, `INSERT INTO instance_map VALUES ($1, $2)`, i+1, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		m.draw(t)
		var queries, asked []timeline.PageQuery
		for range 12 {
			q := timeline.PageQuery{
				Room:      rapid.SampledFrom([]string{weirdRoom, weirdRoom, weirdRoom, bystanderRoom, "!no"}).Draw(t, "of"),
				Backwards: rapid.Bool().Draw(t, "backwards"),
				After:     drawToken(t, "after"),
				UpTo:      drawToken(t, "up to"),
				Filter:    drawFilter(t),
				Limit:     rapid.IntRange(-1, 9).Draw(t, "limit"),
			}
			if rapid.IntRange(0, 3).Draw(t, "ceiling") == 3 {
				q.Ceiling = &matrix.Token{Topological: rapid.Int64Range(0, 7).Draw(t, "ceiling depth"), Stream: 3}
			}
			queries = append(queries, q)
			q.Filter = asPatterns(q.Filter)
			asked = append(asked, q)
		}
		for i, page := range m.pages(t, asked...) {
			ids, last, more := m.page(queries[i])
			require.Equal(t, ids, idsOf(page.Events), "%+v", queries[i])
			require.Equal(t, last, page.Last, "%+v", queries[i])
			require.Equal(t, more, page.More, "%+v", queries[i])
		}

		// From page to page, each event comes once, and in its order.
		q := timeline.PageQuery{
			Room: weirdRoom, Backwards: rapid.Bool().Draw(t, "walk backwards"), Limit: rapid.IntRange(1, 5).Draw(t, "page size"),
		}
		all := q
		all.Limit = math.MaxInt32
		want, _, _ := m.page(all)
		var walked []string
		for page := (timeline.Page{More: true}); page.More; {
			page = m.pages(t, q)[0]
			walked = append(walked, idsOf(page.Events)...)
			if page.Last == nil {
				break
			}
			if next := *page.Last; q.Backwards {
				next.Stream--
				q.UpTo = new(matrix.NewPageToken(next))
			} else {
				q.After = new(matrix.NewPageToken(next))
			}
		}
		require.Equal(t, want, walked)
	})
}

// TestPageOfHostileBounds tries extreme numbers, texts that a database cannot hold,
// and a database that never had several writers.
func TestPageOfHostileBounds(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	rapid.Custom(func(t *rapid.T) bool { m.draw(t); return true }).Example(7)
	require.NotEmpty(t, m.rows)
	for _, text := range []string{
		"t9223372036854775807-9223372036854775807", "t0--9223372036854775808", "s9223372036854775807", "s-9223372036854775808",
		"m-9223372036854775808~1.9223372036854775807", "m3~1.4~2.5",
	} {
		token, err := matrix.ParsePageToken(text)
		require.NoError(t, err)
		for _, q := range []timeline.PageQuery{
			{Room: weirdRoom, Limit: math.MaxInt, After: &token},
			{Room: weirdRoom, Limit: 1000, UpTo: &token, Backwards: true},
		} {
			want := q
			if len(token.Writers()) > 0 { // they are unknown
				least, err := matrix.ParsePageToken(strings.Replace(strings.Split(text, "~")[0], "m", "s", 1))
				require.NoError(t, err)
				if want.After != nil {
					want.After = &least
				} else {
					want.UpTo = &least
				}
			}
			want.Limit = 1000
			ids, _, _ := m.page(want)
			if q.Limit == math.MaxInt {
				q.Limit-- // one more is asked for
			}
			require.Equal(t, ids, idsOf(m.pages(t, q)[0].Events), text)
		}
	}
	page := m.pages(t, timeline.PageQuery{Room: "!a\x00b", Limit: 5, RoomEnd: true, Backwards: true}, timeline.PageQuery{Room: "\xff", Limit: 5})
	require.Equal(t, []timeline.Page{{}, {}}, page)
	for _, nothing := range []timeline.EventFilter{
		{Types: []string{}},
		{TypePatterns: []string{}},
		{Senders: []string{}},
		{Labels: []string{}},
		{RelatedBySenders: []string{}},
		{RelatedByTypes: []string{}},
		{RelationTypes: []string{}},
	} {
		require.Zero(t, m.pages(t, timeline.PageQuery{Room: weirdRoom, Limit: 5, Filter: nothing})[0])
	}
}

// TestEndOfTimeline checks that the end is as deep as the room's outliers, and as
// new as any event that any room has or had.
func TestEndOfTimeline(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	end := func(room string) matrix.Token {
		return m.pages(t, timeline.PageQuery{Room: room, Backwards: true, RoomEnd: true})[0].RoomEnd
	}
	require.Zero(t, end(weirdRoom))
	add := func(id, room string, depth, stream int, outlier bool) {
		m.exec(t, `
			INSERT INTO events (event_id, room_id, type, topological_ordering, stream_ordering, processed, outlier)
			VALUES ($1, $2, 'm', $3, $4, true, $5)`, id, room, depth, stream, outlier)
	}
	add("$a", weirdRoom, 3, -7, false)
	require.Equal(t, matrix.Token{Topological: 3}, end(weirdRoom))
	add("$b", weirdRoom, 9, 2, true)
	add("$c", bystanderRoom, 30, 5, false)
	require.Equal(t, matrix.Token{Topological: 9, Stream: 5}, end(weirdRoom))
	require.Equal(t, matrix.Token{Stream: 5}, end("!no"))
	m.exec(t, `CREATE SEQUENCE IF NOT EXISTS events_stream_seq`)
	require.Equal(t, matrix.Token{Topological: 9, Stream: 5}, end(weirdRoom))
	m.exec(t, `SELECT setval('events_stream_seq', 8)`)
	require.Equal(t, matrix.Token{Topological: 9, Stream: 8}, end(weirdRoom))

	arrived := func(room string, depth, stream int64) (yes bool) {
		require.NoError(t, timeline.Read(t.Context(), m.db, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
			yes, err = snapshot.ArrivedBelow(ctx, room, depth, stream)
			return err
		}))
		return yes
	}
	require.True(t, arrived(weirdRoom, 3, -7))
	require.False(t, arrived(weirdRoom, 3, -6))
	require.True(t, arrived(weirdRoom, 9, -6))
	require.True(t, arrived(weirdRoom, 9, 100), "the newest of the room")
	require.False(t, arrived(weirdRoom, 8, 100))
	require.False(t, arrived("!no", 8, 0))
	require.False(t, arrived("\x00", 8, 0))
}

// TestRedactionsOfAPage checks which redactions apply and which are shown, in
// schemas that store whether a redaction is confirmed, and in older ones.
func TestRedactionsOfAPage(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old schema %t", old), func(t *testing.T) {
			t.Parallel()
			m := newPageModel(t)
			if old {
				m.exec(t, `ALTER TABLE redactions DROP COLUMN recheck`)
			}
			m.exec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '10'), ($2, '10')`, weirdRoom, bystanderRoom)
			stream := 0
			add := func(id, room, kind, sender, metadata string) {
				stream++
				m.exec(t, `
					INSERT INTO events (event_id, room_id, type, sender, topological_ordering, stream_ordering, processed, outlier)
					VALUES ($1, $2, $3, $4, 1, $5, true, false)`, id, room, kind, sender, stream)
				m.exec(t, `INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) VALUES ($1, $2, $3, $4, 3)`,
					id, room, metadata, `{"e":"`+id+`"}`)
			}
			redacts := func(id, target string, recheck bool) {
				m.exec(t, `INSERT INTO redactions (event_id, redacts) VALUES ($1, $2)`, id, target)
				if !old {
					m.exec(t, `UPDATE redactions SET recheck = $2 WHERE event_id = $1`, id, recheck)
				}
			}
			const check = `{"txn_id":"x","recheck_redaction": true}`
			redact := func(target, room, sender, metadata string, recheck bool) {
				add(target+" by", room, "m.room.redaction", sender, metadata)
				redacts(target+" by", target, recheck)
			}
			message := func(id string) { add(id, weirdRoom, "m.room.message", "@a:x:8448", `{}`) }

			message("$plain")
			message("$confirmed")
			redact("$confirmed", weirdRoom, "@z:y", `{}`, false)
			message("$unnoted") // before the column was there
			redact("$unnoted", weirdRoom, "@z:y", `{}`, true)
			message("$same server")
			redact("$same server", weirdRoom, "@z:x:8448", check, true)
			message("$other server")
			redact("$other server", weirdRoom, "@z:x", check, true)
			message("$other room")
			redact("$other room", bystanderRoom, "@a:x:8448", `{}`, true)
			message("$rejected")
			redact("$rejected", weirdRoom, "@a:x:8448", `{}`, true)
			m.exec(t, `INSERT INTO rejections (event_id, reason, last_check) VALUES ('$rejected by', '', '')`)
			message("$refused")
			redact("$refused", weirdRoom, "@a:x:8448", `{}`, true)
			m.exec(t, `UPDATE events SET rejection_reason = 'x' WHERE event_id = '$refused by'`)
			message("$gone")
			redacts("$gone by", "$gone", true)
			message("$twice")
			redact("$twice", weirdRoom, "@z:y", check, true)
			add("$again", weirdRoom, "m.room.redaction", "@a:x:8448", check)
			redacts("$again", "$twice", true)
			add("$create", weirdRoom, "m.room.create", "@a:x:8448", `{}`)
			redact("$create", weirdRoom, "@a:x:8448", `{}`, false)
			redact("$unknown", weirdRoom, "@a:x:8448", `{}`, false)
			message("$lost")
			redact("$lost", weirdRoom, "@a:x:8448", `{}`, false)
			m.exec(t, `DELETE FROM event_json WHERE event_id = '$lost'`)
			message("$target rejected")
			redact("$target rejected", weirdRoom, "@a:x:8448", `{}`, false)
			m.exec(t, `INSERT INTO rejections (event_id, reason, last_check) VALUES ('$target rejected', '', '')`)
			add("$aimless", weirdRoom, "m.room.redaction", "@a:x:8448", `{}`)

			page := m.pages(t, timeline.PageQuery{Room: weirdRoom, Limit: 100})[0]
			got := map[string]string{}
			for _, event := range page.Events {
				got[event.ID] = ""
				if event.RedactedBy != nil {
					got[event.ID] = *event.RedactedBy
					require.JSONEq(t, `{"e":"`+*event.RedactedBy+`"}`, string(event.Redaction))
				}
			}
			require.Equal(t, map[string]string{
				"$plain":       "",
				"$confirmed":   "$confirmed by",
				"$unnoted":     "$unnoted by",
				"$same server": "$same server by", "$same server by": "",
				"$other server": "", "$other room": "", "$rejected": "", "$refused": "", "$gone": "",
				"$twice": "$again", "$again": "", "$create": "",
				"$confirmed by": "", "$unnoted by": "",
			}, got)
			require.Equal(t, int64(stream), page.Last.Stream)

			if !old { // a confirmed redaction counts even if its event is gone
				m.exec(t, `UPDATE redactions SET recheck = false WHERE event_id = '$gone by'`)
				event := m.eventsOf(t, weirdRoom, "$gone")[0]
				require.Equal(t, "$gone by", *event.RedactedBy)
				require.Nil(t, event.Redaction)
			}
		})
	}
}

func (m *pageModel) eventsOf(t require.TestingT, room string, ids ...string) (events []timeline.Event) {
	require.NoError(t, timeline.Read(context.Background(), m.db, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
		events, err = snapshot.EventsOf(ctx, room, ids, timeline.EventFilter{})
		return err
	}))
	return events
}

// TestTimelineEvent checks that a page has an event as the tables have it.
func TestTimelineEvent(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	m.exec(t, `INSERT INTO rooms (room_id, room_version) VALUES ($1, '12')`, weirdRoom)
	m.exec(t, `
		INSERT INTO events (event_id, room_id, type, sender, state_key, topological_ordering, stream_ordering, origin_server_ts, processed, outlier)
		VALUES ('$e', $1, 'm.room.topic', '@a:x', '', 7, -3, 99, true, false), ('$f', $1, 'm', NULL, NULL, 7, -2, NULL, true, true),
		       ('$nowhere', $1, 'm', NULL, NULL, 7, NULL, NULL, true, false)`, weirdRoom)
	m.exec(t, `
		INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
		VALUES ('$e', $1, 'no JSON', '{]', 4), ('$f', $1, '', '', 4), ('$nowhere', $1, '', '', 4)`, weirdRoom)
	m.exec(t, `INSERT INTO event_to_state_groups VALUES ('$e', 5)`)
	want := timeline.Event{
		ID: "$e", Type: "m.room.topic", Sender: "@a:x", StateKey: new(""), Topological: 7, Stream: -3, OriginTS: 99,
		StateGroup: new(int64(5)), RoomVersion: new("12"), JSON: json.RawMessage(`{]`), InternalMetadata: json.RawMessage(`no JSON`),
	}
	require.Equal(t, []timeline.Event{want}, m.pages(t, timeline.PageQuery{Room: weirdRoom, Limit: 9})[0].Events)
	require.Equal(t, []timeline.Event{want}, m.eventsOf(t, weirdRoom, "$e", "$no", "\x00"))
	require.Equal(t, []timeline.Event{{
		ID: "$f", Type: "m", Topological: 7, Stream: -2, Outlier: true, RoomVersion: want.RoomVersion,
		JSON: json.RawMessage{}, InternalMetadata: json.RawMessage{},
	}}, m.eventsOf(t, weirdRoom, "$f", "$nowhere"))
	require.Empty(t, m.eventsOf(t, bystanderRoom, "$e"))
	require.Empty(t, m.eventsOf(t, weirdRoom, "\x00"))
	require.Empty(t, m.eventsOf(t, "\x00", "$e"))

	want.StateGroup = nil
	require.Equal(t, []timeline.Event{want}, m.pages(t, timeline.PageQuery{Room: weirdRoom, Limit: 9, NoStateGroups: true})[0].Events)
	for version, fits := range map[string]bool{"12": true, "11": false, "org.example.strange": false, "": false} {
		m.exec(t, `UPDATE rooms SET room_version = $1`, version)
		require.Len(t, m.pages(t, timeline.PageQuery{Room: weirdRoom, Limit: 9})[0].Events, map[bool]int{true: 1}[fits], version)
	}
	m.exec(t, `UPDATE rooms SET room_version = NULL`)
	require.Len(t, m.pages(t, timeline.PageQuery{Room: weirdRoom, Limit: 9})[0].Events, 1)

	gaps := func() (yes bool) {
		require.NoError(t, timeline.Read(t.Context(), m.db, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
			yes, err = snapshot.HasGaps(ctx, weirdRoom)
			return err
		}))
		return yes
	}
	require.False(t, gaps())
	m.exec(t, `INSERT INTO event_backward_extremities (event_id, room_id) VALUES ('$x', $1)`, weirdRoom)
	require.True(t, gaps())
}

// TestWholeState checks that a group's state has the nearest entries of its chain,
// and that a circular chain ends.
func TestWholeState(t *testing.T) {
	t.Parallel()
	m := newPageModel(t)
	m.exec(t, `INSERT INTO state_groups (id, room_id, event_id) VALUES (1, 'r', ''), (2, 'r', ''), (3, 'r', '')`)
	m.exec(t, `INSERT INTO state_group_edges (state_group, prev_state_group) VALUES (3, 2), (2, 1), (1, 3)`)
	m.exec(t, `
		INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id) VALUES
		(1, 'r', 'm.room.create', '', '$create'), (1, 'r', 'm.room.member', '@a:x', '$a1'), (1, 'r', 'm.room.topic', '', '$t1'),
		(2, 'r', 'm.room.member', '@b:x', '$b2'), (2, 'r', 'm.room.topic', '', '$t2'),
		(3, 'r', 'm.room.member', '@a:x', '$a3')`)
	state := func(group int64, limit int, members ...string) (ids []string) {
		require.NoError(t, timeline.Read(t.Context(), m.db, func(ctx context.Context, snapshot *timeline.Snapshot) (err error) {
			ids, err = snapshot.WholeState(ctx, group, members, limit)
			return err
		}))
		return ids
	}
	require.Equal(t, []string{"$create", "$t2", "$a3", "$b2"}, state(3, 10))
	require.Equal(t, []string{"$create", "$t2", "$a3"}, state(3, 3))
	require.Equal(t, []string{"$create", "$t2", "$b2"}, state(3, 10, "@b:x", "@c:x"))
	require.Empty(t, state(4, 10))
}

// TestPagesReadLittle checks that a page of a room with thousands of events reads
// about as many rows as it returns, from every table, also when the planner does not
// know the parameters and expects the filter to be selective.
func TestPagesReadLittle(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	m := newPageModel(t)
	room, err := roomgen.Generate(ctx, m.conn, roomgen.Room{Server: "x", Events: 4000})
	require.NoError(t, err)
	_, err = roomgen.Generate(ctx, m.conn, roomgen.Room{Server: "x", Events: 50, Seed: 1})
	require.NoError(t, err)
	m.exec(t, `
		INSERT INTO event_labels (event_id, label, room_id, topological_ordering)
		SELECT event_id, '#' || stream_ordering % 100, room_id, topological_ordering FROM events`)
	m.exec(t, `UPDATE events SET contains_url = true WHERE stream_ordering % 20 = 0`)
	m.exec(t, `ANALYZE`)

	parse := func(text string) *matrix.PageToken {
		token, err := matrix.ParsePageToken(text)
		require.NoError(t, err)
		return &token
	}
	middle := parse(fmt.Sprintf("t%d-0", room.LastDepth/2))
	const limit = 10
	for name, q := range map[string]timeline.PageQuery{
		"the newest":         {Backwards: true},
		"the oldest":         {After: parse("s0")},
		"backwards":          {Backwards: true, UpTo: middle},
		"forwards":           {After: middle},
		"up to a place":      {Backwards: true, UpTo: middle, After: parse("t5-0")},
		"few since":          {After: parse(fmt.Sprintf("s%d", room.LastStream-20))},
		"back to few since":  {Backwards: true, After: parse(fmt.Sprintf("s%d", room.LastStream-20))},
		"a type":             {Backwards: true, Filter: timeline.EventFilter{Types: []string{"m.room.message"}}},
		"one of many types":  {Filter: timeline.EventFilter{Types: []string{"a", "b", "c", "m.room.message", "d"}, NotTypes: []string{"x"}}, After: middle},
		"a pattern":          {Backwards: true, Filter: timeline.EventFilter{TypePatterns: []string{"m.room.m%"}}},
		"not from a sender":  {Backwards: true, Filter: timeline.EventFilter{NotSenders: []string{"@nobody:x"}}},
		"with a URL":         {Backwards: true, Filter: timeline.EventFilter{ContainsURL: true}},
		"with a label":       {Backwards: true, Filter: timeline.EventFilter{Labels: []string{"#7"}}},
		"no relation of one": {Filter: timeline.EventFilter{NotRelationTypes: []string{"m.replace"}}, After: middle},
		"with children":      {Backwards: true, UpTo: middle, Children: &timeline.ChildQuery{Ignorer: "@a:x", Ceiling: &matrix.Token{Topological: 3000}}},
		"a label's children": {Backwards: true, Filter: timeline.EventFilter{Labels: []string{"#7"}}, Children: &timeline.ChildQuery{}},
	} {
		q.Room, q.Limit = room.Room, limit
		sql, args := q.SQL()
		var plans []struct{ Plan storetest.PlanNode }
		require.NoError(t, m.db.Snapshot(ctx, func(ctx context.Context, tx *postgres.LazyTx) error {
			_, err := tx.Exec(ctx, `PREPARE page AS `+sql)
			require.NoError(t, err, name)
			require.NoError(t, tx.QueryRow(ctx, `EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE page (`+literals(args)+`)`).Scan(&plans), name)
			_, err = tx.Exec(ctx, `DEALLOCATE page`)
			return err
		}))
		read := map[string]float64{}
		plans[0].Plan.Count(read)
		require.GreaterOrEqual(t, read["events"], 1.+limit, name)
		for table, rows := range read {
			require.LessOrEqual(t, rows, 6.*limit, "%s of %s", table, name)
		}
		require.Len(t, m.pages(t, q)[0].Events, limit, name)
	}
}

// literals writes parameters into a statement.
func literals(args []any) string {
	var all []string
	for _, arg := range args {
		switch arg := arg.(type) {
		case string:
			all = append(all, `'`+arg+`'`)
		case []string:
			all = append(all, `'{`+strings.Join(arg, ",")+`}'`)
		default:
			all = append(all, fmt.Sprint(arg))
		}
	}
	return strings.Join(all, ", ")
}
