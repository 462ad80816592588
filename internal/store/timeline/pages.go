package timeline

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
)

// A PageQuery asks for events of a room's timeline that follow each other: by
// depth, and at the same depth as they arrived.
type PageQuery struct {
	Room string

	// Backwards asks for the last ones first.
	Backwards bool

	// After and UpTo are the bounds: what comes after the one, up to and with the
	// other. Historic tokens bound the place, live ones the arrival. Default to
	// nil: no bound.
	After, UpTo *matrix.PageToken

	// Ceiling is a place that bounds as UpTo does, beside it. Defaults to nil.
	Ceiling *matrix.Token

	Filter EventFilter

	// Limit is the most rows that are looked at. It has no default: 0 is none.
	Limit int

	// RoomEnd asks for [Page.RoomEnd] too.
	RoomEnd bool

	// NoStateGroups leaves out what a page that hides nothing does not need: nobody
	// then knows the state groups of its events.
	NoStateGroups bool

	// Reader asks for [Page.Standing] of this user, and for events only if it
	// is joined. Defaults to nil: nobody's is told, and the events are read.
	Reader *string
}

// An EventFilter says which events are wanted. The zero EventFilter wants all. A
// list that is nil says nothing; one that is empty, but for those that begin
// with Not, wants nothing.
type EventFilter struct {
	// Types are exact, TypePatterns are as [PatternOf] makes them. An event whose
	// type is in either is wanted, unless it is in one of the other two.
	Types, TypePatterns       []string
	NotTypes, NotTypePatterns []string

	Senders, NotSenders []string

	// ContainsURL wants events with a URL.
	ContainsURL bool

	// Labels wants events with any of these.
	Labels []string

	// RelatedBySenders and RelatedByTypes want events that another one has a
	// relation to: of one of these senders, and of one of these types.
	RelatedBySenders, RelatedByTypes []string

	// RelationTypes wants events by the type of the relation that they have.
	// One without any has none of them, so NotRelationTypes does not hide it.
	RelationTypes, NotRelationTypes []string
}

// PatternOf returns the pattern of the texts that a text stands for, in which *
// stands for any text.
func PatternOf(text string) string { return likePattern.Replace(text) }

var likePattern = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`)

// A Page is what a PageQuery finds.
type Page struct {
	// Events are those that are fit to be read, in the order that was asked for.
	// Left out are events that were refused, that have no JSON or are of a format
	// that is not the room's, and redactions that must not be told of. That the
	// JSON is JSON has not been checked.
	Events []Event

	// Last is where the last event stands that was looked at, whether it is among
	// Events or was left out; nil if there was none.
	Last *matrix.Token

	// More says that there are others within the bounds after Last.
	More bool

	// RoomEnd is a place that nothing of the room is after at this moment: at its
	// greatest depth, outliers included, and the newest place in the stream of
	// all rooms. It is zero unless it was asked for.
	RoomEnd matrix.Token

	// Standing is the reader's, zero unless it was asked for.
	Standing Standing
}

// Pages answers the queries, in one round trip. Events with a negative depth,
// which no token can name, and those without a place in the stream are on no
// page. An unknown room has no events.
func (s *Snapshot) Pages(ctx context.Context, queries ...PageQuery) ([]Page, error) {
	const operation = "read a page of the timeline"
	names, err := s.writerNames(ctx, queries)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	var pipeline pgx.Batch
	pages := make([]Page, len(queries))
	for i, query := range queries {
		page := &pages[i]
		if !postgres.Storable(query.Room) {
			continue
		}
		if query.Reader != nil {
			if !postgres.Storable(*query.Reader) {
				continue
			}
			queueStanding(&pipeline, query.Room, *query.Reader, &page.Standing)
		}
		if query.RoomEnd {
			pipeline.Queue(roomEndSQL, query.Room).QueryRow(func(row pgx.Row) error {
				return row.Scan(&page.RoomEnd.Topological, &page.RoomEnd.Stream)
			})
		}
		if query.Limit <= 0 || query.Filter.wantsNothing() {
			continue
		}
		sql, args := query.sql(names)
		pipeline.Queue(sql, args...).Query(func(rows pgx.Rows) error {
			return page.read(rows, query.Limit)
		})
	}
	if pipeline.Len() == 0 {
		return pages, nil
	}
	if err := s.tx.Send(ctx, &pipeline); err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return pages, nil
}

// EventsOf reads those events of a room that are fit to be read, by their ids and
// in no order. The caller bounds how many it asks for.
func (s *Snapshot) EventsOf(ctx context.Context, room string, ids []string) ([]Event, error) {
	if !postgres.Storable(room) || !slices.ContainsFunc(ids, postgres.Storable) {
		return nil, nil
	}
	rows, err := s.tx.Query(ctx, loaded(`
		SELECT `+keyColumns+` FROM events e
		WHERE e.event_id = ANY ($2::text[]) AND e.room_id = $1 AND e.stream_ordering IS NOT NULL`, stateGroup),
		room, slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !postgres.Storable(id) }))
	var page Page
	if err == nil {
		err = page.read(rows, math.MaxInt)
	}
	if err != nil {
		return nil, fmt.Errorf("read events of a room: %w", err)
	}
	return page.Events, nil
}

// ArrivedBelow reports whether the room has an event that is not deeper than the
// given depth and had not arrived when the stream was at the given place; of
// what has arrived since the newest of its events counts in any case.
func (s *Snapshot) ArrivedBelow(ctx context.Context, room string, depth, stream int64) (arrived bool, err error) {
	if !postgres.Storable(room) {
		return false, nil
	}
	err = s.tx.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM events
			WHERE room_id = $1 AND topological_ordering <= $2
			  AND stream_ordering >= least($3, (SELECT max(stream_ordering) FROM events WHERE room_id = $1)))`,
		room, depth, stream).Scan(&arrived)
	if err != nil {
		return false, fmt.Errorf("look for what arrived below a depth: %w", err)
	}
	return arrived, nil
}

// HasGaps reports whether other servers have events of the room that come before
// some of ours.
func (s *Snapshot) HasGaps(ctx context.Context, room string) (gaps bool, err error) {
	if !postgres.Storable(room) {
		return false, nil
	}
	if err = s.tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM event_backward_extremities WHERE room_id = $1)`, room).Scan(&gaps); err != nil {
		return false, fmt.Errorf("look for gaps in the timeline: %w", err)
	}
	return gaps, nil
}

// A running homeserver takes its places in the stream from a sequence, which is
// ahead of the table when what came last is gone, or not yet committed. Not every
// database has it, nor may every role read it.
const roomEndSQL = `
	SELECT greatest((SELECT max(topological_ordering) FROM events WHERE room_id = $1), 0),
	       greatest((SELECT max(stream_ordering) FROM events),
	                CASE WHEN has_sequence_privilege(to_regclass('events_stream_seq'), 'SELECT, USAGE')
	                     THEN pg_sequence_last_value(to_regclass('events_stream_seq')) END,
	                0)`

// keyColumns are what the table events itself says of an event e.
const keyColumns = `
	e.event_id, e.type, e.sender, e.state_key, e.topological_ordering, e.stream_ordering, e.origin_server_ts, e.outlier, e.rejection_reason`

const stateGroup = `(SELECT g.state_group FROM event_to_state_groups g WHERE g.event_id = e.event_id LIMIT 1)`

// loaded is the statement that reads the events of the room $1 that the statement keys
// finds, so as [Page.read] wants them; group is stateGroup, or what is in its
// place.
//
// Tables that know something of every event are asked for one after the other, by their
// index: subqueries that are bounded by LIMIT are not turned into joins of whole tables,
// whatever the planner takes the number of events for. Those that know few events are
// asked once for all of the page.
func loaded(keys, group string) string {
	return `
		WITH page AS MATERIALIZED (` + keys + `), redacted AS MATERIALIZED (` + redactionsOfPage + `),
		     few AS MATERIALIZED (` + fewRelations + `), related AS MATERIALIZED (` + relatedByFew + `)
		SELECT ` + group + `,
			e.event_id, e.type, coalesce(e.sender, ''), e.state_key, e.topological_ordering, e.stream_ordering,
			coalesce(e.origin_server_ts, 0), e.outlier,
			(SELECT r.room_version FROM rooms r WHERE r.room_id = $1),
			j.json, j.internal_metadata, d.event_id, d.json, d.internal_metadata, ` + relatedOnPage + `, coalesce(j.format_version, 1),
			e.rejection_reason IS NOT NULL
			OR e.event_id = ANY (ARRAY(SELECT x.event_id FROM rejections x WHERE x.event_id = ANY (ARRAY(SELECT event_id FROM page))))
			OR e.type = 'm.room.redaction' AND ` + redactsSomething + ` IS NOT TRUE
		FROM page e
		LEFT JOIN LATERAL (
			SELECT j.json, j.internal_metadata, j.format_version FROM event_json j WHERE j.event_id = e.event_id LIMIT 1
		) j ON true
		LEFT JOIN redacted d ON d.redacts = e.event_id
		LEFT JOIN related r ON r.relates_to_id = e.event_id`
}

// usualLimit is a limit that most pages have at most.
const usualLimit = 100

// read reads rows of loaded. One beyond the limit is there only to say
// that there are more.
func (p *Page) read(rows pgx.Rows, limit int) error {
	var row struct {
		Event
		related int
		format  int
		dropped bool
	}
	count := 0
	p.Events = make([]Event, 0, min(limit, usualLimit))
	_, err := pgx.ForEachRow(rows, []any{
		&row.StateGroup, &row.ID, &row.Type, &row.Sender, &row.StateKey, &row.Topological, &row.Stream, &row.OriginTS, &row.Outlier,
		&row.RoomVersion, (*[]byte)(&row.JSON), (*[]byte)(&row.InternalMetadata), &row.RedactedBy, (*[]byte)(&row.Redaction), (*[]byte)(&row.RedactionMetadata), &row.related,
		&row.format, &row.dropped,
	}, func() error {
		if count++; count > limit {
			p.More = true
			return nil
		}
		p.Last = &matrix.Token{Topological: row.Topological, Stream: row.Stream}
		if !row.dropped && row.JSON != nil && formatFits(row.RoomVersion, row.format) {
			row.Related = relatedOf(row.related)
			p.Events = append(p.Events, row.Event)
		}
		return nil
	})
	return err
}

// formatFits reports whether a room of the version has events of the format. In a
// room of which nobody knows the version each is taken for what it is.
func formatFits(version *string, format int) bool {
	if version == nil {
		return true
	}
	want, ok := matrix.RoomVersion(*version).EventFormat()
	return ok && format == want
}

// sql returns the statement of the query: one row for each event, and one more if
// there are more than the limit. Its text depends on which bounds and parts of the
// filter there are, never on what they say.
//
// First only events are read, in the order of the index events_order_room from the
// bound on, until there are enough of them; everything else is looked up for these.
//
// The filter stands outside of the subquery that is ordered, which OFFSET keeps as it
// is: so the planner sees a few rows wanted of an ordered whole, and walks the index.
// Left to itself it takes the filter for selective, expects too few events, and reads
// and sorts the whole room, or the table, for every page. For a filter that is indeed
// selective the walk goes on until there are enough, through the whole room at worst:
// of the indexes that Synapse has none begins with a room and a type, a sender or a
// relation. Two do help, and are used: that of events with a URL, and that of labels.
//
// What a live token bounds is checked in the index, which has the place in the stream
// too: events that arrived too early or too late are passed over without reading them.
func (q PageQuery) sql(names writerNames) (string, []any) {
	var p parameters
	p.add(q.Room) // $1: loaded counts on it
	limit := p.add(int64(q.Limit) + 1)
	order := ` ORDER BY e.topological_ordering, e.stream_ordering`
	if q.Backwards {
		order = ` ORDER BY e.topological_ordering DESC, e.stream_ordering DESC`
	}
	bounds := q.bounds(&p, names)
	filter := q.Filter.sql(&p)

	keys := `SELECT ` + keyColumns + ` FROM events e WHERE ` + bounds + order
	switch {
	case q.Filter.Labels != nil:
		// The index of labels has an order for each of them, which is theirs up to
		// events of the same depth.
		labels := p.add(q.Filter.Labels)
		each := strings.ReplaceAll(order, "e.topological_ordering", "t.topological_ordering")
		keys = `
		SELECT DISTINCT ON (e.topological_ordering, e.stream_ordering) e.*
		FROM unnest(` + labels + `::text[]) AS asked (label)
		CROSS JOIN LATERAL (
			SELECT ` + keyColumns + `
			FROM event_labels t JOIN events e ON e.event_id = t.event_id AND e.topological_ordering = t.topological_ordering
			WHERE t.room_id = $1 AND t.label = asked.label AND ` + q.labelBounds(&p) + bounds + filter + each + `
			LIMIT ` + limit + `
		) e` + order + ` LIMIT ` + limit
	case filter != "":
		keys = `SELECT * FROM (` + keys + ` OFFSET 0) e WHERE true` + filter + ` LIMIT ` + limit
	default:
		keys += ` LIMIT ` + limit
	}
	group := stateGroup
	if q.NoStateGroups {
		group = `NULL::bigint`
	}
	return loaded(keys, group) + order, p.values
}

// bounds returns the condition that an event e is of the timeline and within the
// bounds.
func (q PageQuery) bounds(p *parameters, names writerNames) string {
	var sql strings.Builder
	// A partial index is used for what says its own condition.
	if q.Reader != nil {
		// It is looked for once, before anything else.
		sql.WriteString(`(SELECT m.membership FROM local_current_membership m WHERE m.room_id = $1 AND m.user_id = ` + p.add(*q.Reader) + `) = 'join' AND `)
	}
	sql.WriteString(`e.room_id = $1 AND NOT e.outlier AND e.topological_ordering >= 0 AND e.stream_ordering IS NOT NULL`)
	if q.Filter.ContainsURL {
		sql.WriteString(` AND e.contains_url`)
	}
	place := func(operator string, at matrix.Token) {
		fmt.Fprintf(&sql, ` AND (e.topological_ordering, e.stream_ordering) %s (%s, %s)`,
			operator, p.add(at.Topological), p.add(at.Stream))
	}
	if q.After != nil {
		if at, historic := q.After.Historic(); historic {
			place(">", at)
		} else {
			least := p.add(q.After.Stream())
			sql.WriteString(` AND e.stream_ordering > ` + least)
			if q.After.Stream() > 0 {
				sql.WriteString(` AND e.topological_ordering >= ` + lowestAfter(least))
			}
			if len(q.After.Writers()) > 0 {
				sql.WriteString(` AND e.stream_ordering > ` + names.positionOf(p, *q.After, least))
			}
		}
	}
	highest := q.Ceiling
	if q.UpTo != nil {
		if at, historic := q.UpTo.Historic(); !historic {
			least := p.add(q.UpTo.Stream())
			if writers := q.UpTo.Writers(); len(writers) == 0 {
				sql.WriteString(` AND e.stream_ordering <= ` + least)
			} else {
				most := q.UpTo.Stream()
				for _, writer := range writers {
					most = max(most, writer.Stream)
				}
				fmt.Fprintf(&sql, ` AND e.stream_ordering <= %s AND e.stream_ordering <= %s`,
					p.add(most), names.positionOf(p, *q.UpTo, least))
			}
		} else if highest == nil || before(at, *highest) {
			highest = &at
		}
	}
	if highest != nil {
		place("<=", *highest)
	}
	return sql.String()
}

// labelBounds are the bounds of the depth, as the index of labels can check them.
// They end with AND.
func (q PageQuery) labelBounds(p *parameters) string {
	var sql string
	if q.After != nil {
		if at, historic := q.After.Historic(); historic {
			sql += `t.topological_ordering >= ` + p.add(at.Topological) + ` AND `
		}
	}
	if q.UpTo != nil {
		if at, historic := q.UpTo.Historic(); historic {
			sql += `t.topological_ordering <= ` + p.add(at.Topological) + ` AND `
		}
	}
	return sql
}

// before reports whether a place comes before another one.
func before(a, b matrix.Token) bool {
	return a.Topological < b.Topological || a.Topological == b.Topological && a.Stream < b.Stream
}

// fewArrivals is how many events after a live token are looked at to find out where
// they begin.
const fewArrivals = 200

// lowestAfter returns the least depth of what arrived after a place in the stream,
// if that is not much: the walk by depth then need not pass over all that is older,
// nor go on below. If it is much, 0.
//
// The room is asked for as a range that holds only itself: with a plain equality
// the planner may walk through the stream of all rooms.
func lowestAfter(stream string) string {
	return `(
		SELECT CASE WHEN count(*) = 0 THEN ` + strconv.FormatInt(math.MaxInt64, 10) + `
		            WHEN count(*) > ` + strconv.Itoa(fewArrivals) + ` THEN 0
		            ELSE min(n.topological_ordering) END
		FROM (
			SELECT n.topological_ordering FROM events n
			WHERE (n.room_id, n.stream_ordering) > ($1, ` + stream + `) AND n.room_id <= $1
			ORDER BY n.room_id, n.stream_ordering
			LIMIT ` + strconv.Itoa(fewArrivals+1) + `
		) n)`
}

// sql returns the conditions of the filter that [PageQuery.bounds] and the labels do
// not cover, each with AND before it. Relations are looked up for one event after the
// other, as in loaded.
func (f EventFilter) sql(p *parameters) string {
	var sql strings.Builder
	among := func(what string, exact, patterns []string) string {
		switch {
		case len(patterns) == 0:
			return what + ` = ANY (` + p.add(exact) + `::text[])`
		case len(exact) == 0:
			return what + ` LIKE ANY (` + p.add(patterns) + `::text[])`
		default:
			return `(` + what + ` = ANY (` + p.add(exact) + `::text[]) OR ` + what + ` LIKE ANY (` + p.add(patterns) + `::text[]))`
		}
	}
	if f.Types != nil || f.TypePatterns != nil {
		sql.WriteString(` AND ` + among(`e.type`, f.Types, f.TypePatterns))
	}
	if len(f.NotTypes)+len(f.NotTypePatterns) > 0 {
		sql.WriteString(` AND NOT ` + among(`e.type`, f.NotTypes, f.NotTypePatterns))
	}
	if f.Senders != nil {
		sql.WriteString(` AND ` + among(`e.sender`, f.Senders, nil))
	}
	if len(f.NotSenders) > 0 {
		sql.WriteString(` AND ` + among(`e.sender`, f.NotSenders, nil) + ` IS NOT TRUE`)
	}
	if f.RelatedBySenders != nil || f.RelatedByTypes != nil {
		sql.WriteString(` AND (
			SELECT true FROM event_relations r`)
		if f.RelatedBySenders != nil {
			sql.WriteString(` JOIN events c ON c.event_id = r.event_id AND ` + among(`c.sender`, f.RelatedBySenders, nil))
		}
		sql.WriteString(` WHERE r.relates_to_id = e.event_id`)
		if f.RelatedByTypes != nil {
			sql.WriteString(` AND ` + among(`r.relation_type`, f.RelatedByTypes, nil))
		}
		sql.WriteString(` LIMIT 1)`)
	}
	const own = `(SELECT r.relation_type FROM event_relations r WHERE r.event_id = e.event_id LIMIT 1)`
	if f.RelationTypes != nil {
		sql.WriteString(` AND ` + among(own, f.RelationTypes, nil))
	}
	if len(f.NotRelationTypes) > 0 {
		sql.WriteString(` AND ` + among(own, f.NotRelationTypes, nil) + ` IS NOT TRUE`)
	}
	return sql.String()
}

// wantsNothing reports whether no event can pass.
func (f EventFilter) wantsNothing() bool {
	empty := func(list []string) bool { return list != nil && len(list) == 0 }
	return (f.Types != nil || f.TypePatterns != nil) && len(f.Types)+len(f.TypePatterns) == 0 ||
		empty(f.Senders) || empty(f.Labels) || empty(f.RelatedBySenders) || empty(f.RelatedByTypes) || empty(f.RelationTypes)
}

// parameters are those of a statement.
type parameters struct{ values []any }

// add adds one and returns how the statement names it.
func (p *parameters) add(value any) string {
	p.values = append(p.values, value)
	return "$" + strconv.Itoa(len(p.values))
}

// writerNames are the names of writers by the numbers that tokens have for them.
type writerNames map[int64]string

// writerNames reads the names of the writers that the bounds name. One that is
// unknown has written nothing.
func (s *Snapshot) writerNames(ctx context.Context, queries []PageQuery) (writerNames, error) {
	var asked []int64
	for _, query := range queries {
		for _, bound := range []*matrix.PageToken{query.After, query.UpTo} {
			if bound == nil {
				continue
			}
			for _, writer := range bound.Writers() {
				asked = append(asked, writer.Writer)
			}
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	// A database that never had several writers may not have their table.
	var several bool
	if err := s.tx.QueryRow(ctx, `SELECT to_regclass('instance_map') IS NOT NULL`).Scan(&several); err != nil || !several {
		return nil, err
	}
	rows, err := s.tx.Query(ctx, `SELECT instance_id::bigint, instance_name FROM instance_map WHERE instance_id = ANY ($1::bigint[])`, asked)
	if err != nil {
		return nil, err
	}
	names := writerNames{}
	var id int64
	var name string
	_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		names[id] = name
		return nil
	})
	return names, err
}

// positionOf returns where the token says that the writer of an event e is. An event
// of which nobody knows the writer is the main process's.
func (names writerNames) positionOf(p *parameters, token matrix.PageToken, least string) string {
	var writers []string
	var streams []int64
	for _, position := range token.Writers() {
		if name, ok := names[position.Writer]; ok {
			writers, streams = append(writers, name), append(streams, position.Stream)
		}
	}
	return `coalesce((
		SELECT w.stream FROM unnest(` + p.add(writers) + `::text[], ` + p.add(streams) + `::bigint[]) AS w (name, stream)
		WHERE w.name = coalesce(e.instance_name, 'master') LIMIT 1), ` + least + `)`
}
