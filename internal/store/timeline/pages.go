package timeline

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
	"lethe/internal/store/rowcache"
)

// A PageQuery asks for consecutive events of a room's timeline, in the order of
// depth, and of arrival at the same depth.
type PageQuery struct {
	Room string

	// Backwards returns the last events first.
	Backwards bool

	// After and UpTo are the bounds: the page has events after After, up to and
	// including UpTo. Historic tokens bound the place, live ones the arrival. Both
	// default to nil, no bound.
	After, UpTo *matrix.PageToken

	// Ceiling is a further upper bound of the place, besides UpTo. Floor is a further lower
	// bound, besides After, and the page has events after it. Both default to nil.
	Ceiling, Floor *matrix.Token

	// Bytes bounds the JSON of the events and of their redactions: the page ends with the
	// event that reaches it. Defaults to 0, no bound.
	Bytes int

	Filter EventFilter

	// Limit is the maximum number of rows to read. It has no default: 0 reads no row.
	Limit int

	// RoomEnd requests [Page.RoomEnd].
	RoomEnd bool

	// NoStateGroups leaves out the events' state groups. A page that hides nothing does
	// not need them.
	NoStateGroups bool

	// Reader requests [Page.ReaderAccess] of this user. The page has events only if the
	// user is joined. Defaults to nil: the access is left out, and events are read.
	Reader *string

	// Children requests [Page.Children]. Defaults to nil: they are left out.
	Children *ChildQuery

	// FilterTime bounds the statement that reads the events, if there is a Filter. Without
	// a filter a page is found by an index. Defaults to 0, the bound of every statement.
	FilterTime time.Duration
}

// An EventFilter says which events to return. The zero value selects all. A nil list
// selects all events. An empty list selects no event, unless its name begins with
// Not.
type EventFilter struct {
	// Types are exact, and TypePatterns come from [PatternOf]. An event is selected if
	// its type matches either of them and neither of the other two.
	Types, TypePatterns       []string
	NotTypes, NotTypePatterns []string

	Senders, NotSenders []string

	// ContainsURL selects events with a URL.
	ContainsURL bool

	// Labels selects events with any of these labels.
	Labels []string

	// RelatedBySenders and RelatedByTypes select events to which another event has a
	// relation: by one of these senders, and of one of these types.
	RelatedBySenders, RelatedByTypes []string

	// RelationTypes and NotRelationTypes select events by the type of their own
	// relation. An event without a relation has no type, so NotRelationTypes does not
	// hide it.
	RelationTypes, NotRelationTypes []string
}

// PatternOf returns the LIKE pattern of a text in which * stands for any text.
func PatternOf(text string) string { return likePattern.Replace(text) }

var likePattern = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`)

// A Page is the result of a PageQuery.
type Page struct {
	// Events are the readable events in the requested order. Left out are events that
	// were rejected, that have no JSON or not the format of the room's version, and
	// redactions that readers must not see. The JSON has not been validated.
	Events []Event

	// Last is the place of the last row that was read, even if its event was left out;
	// nil if there was no row.
	Last *matrix.Token

	// Rows is the number of rows that were read, including those that were left out.
	Rows int

	// More says that more events follow Last within the bounds. Cut says that they do
	// because of [PageQuery.Bytes].
	More, Cut bool

	// RoomEnd is a place after all present events of the room: its greatest depth,
	// outliers included, and the newest place in the stream of all rooms. It is zero
	// unless requested.
	RoomEnd matrix.Token

	// ReaderAccess is the reader's access, zero unless requested.
	ReaderAccess ReaderAccess

	// Children are the events that relate to the events of the page. They are nil unless
	// requested, and if they are too many to be read with the page.
	Children *Children

	versions []rowcache.Version // of the texts of Events, if there is a cache
}

// Pages runs the queries in one round trip. No page has events with a negative
// depth, which a token cannot express, or events without a place in the stream. An
// unknown room has no events.
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
			queueReaderAccess(&pipeline, query.Room, *query.Reader, &page.ReaderAccess)
		}
		if query.RoomEnd {
			pipeline.Queue(roomEndSQL, query.Room).QueryRow(func(row pgx.Row) error {
				return row.Scan(&page.RoomEnd.Topological, &page.RoomEnd.Stream)
			})
		}
		if query.Limit <= 0 || query.Filter.wantsNothing() {
			continue
		}
		if query.FilterTime > 0 && query.Filter.Selects() {
			// A filter that selects few events reads the whole room.
			pipeline.Queue(`SELECT set_config('statement_timeout', $1, true)`, postgres.Milliseconds(query.FilterTime))
		}
		s.queueMoment(&pipeline)
		if query.Children != nil && postgres.Storable(query.Children.Ignorer) {
			page.Children = newChildren()
		} else {
			query.Children = nil
		}
		load := loading{versions: s.cache != nil, noTexts: s.expects(query)}
		sql, args := query.sql(names, s.bans, load)
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
	for i := range pages {
		pages[i].Children = pages[i].Children.complete(pages[i].Events)
		if err := s.addTexts(ctx, queries[i].Room, &pages[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", operation, err)
		}
	}
	return pages, nil
}

// Selects reports whether the filter may leave out events.
func (f EventFilter) Selects() bool { return !reflect.ValueOf(f).IsZero() }

// EventsOf reads the readable events of a room by their ids, in no order. Of the
// filter it does not check labels and URLs. The caller must bound the number of ids.
func (s *Snapshot) EventsOf(ctx context.Context, room string, ids []string, filter EventFilter) ([]Event, error) {
	if ids = postgres.OnlyStorable(ids); len(ids) == 0 || !postgres.Storable(room) || filter.wantsNothing() {
		return nil, nil
	}
	return s.eventsOf(ctx, room, ids, filter, loading{})
}

// OutlinesOf is [Snapshot.EventsOf] for events of which only must be known who may see them.
// Their JSON is {}, except for that of member events and of changes of the history
// visibility, and the JSON of their redactions is left out. It reads those that are not among
// the children, which may be nil.
func (s *Snapshot) OutlinesOf(ctx context.Context, room string, ids []string, children *Children) ([]Event, error) {
	outlines, unknown := children.outlines(ids)
	if unknown = postgres.OnlyStorable(unknown); len(unknown) == 0 || !postgres.Storable(room) {
		return outlines, nil
	}
	others, err := s.eventsOf(ctx, room, unknown, EventFilter{}, loading{outlines: true})
	return append(outlines, others...), err
}

func (s *Snapshot) eventsOf(ctx context.Context, room string, ids []string, filter EventFilter, load loading) ([]Event, error) {
	var p parameters
	p.add(room) // must be $1, as [bans.loaded] expects
	keys := `
		SELECT ` + keyColumns + ` FROM events e
		WHERE e.event_id = ANY (` + p.add(ids) + `::text[]) AND e.room_id = $1 AND e.stream_ordering IS NOT NULL` + filter.sql(&p)
	rows, err := s.tx.Query(ctx, s.bans.loaded(keys, load), p.values...)
	var page Page
	if err == nil {
		err = page.read(rows, math.MaxInt)
	}
	if err != nil {
		return nil, fmt.Errorf("read events of a room: %w", err)
	}
	return page.Events, nil
}

// ArrivedBelow reports whether the room has an event at or below the given depth
// that arrived at or after the given place in the stream. If the place is after the
// room's newest event, it reports whether that event is at or below the depth.
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

// A running homeserver takes its places in the stream from a sequence. The sequence
// is ahead of the table if the newest events are gone, or not committed yet. Some
// databases do not have it, and some roles may not read it.
const roomEndSQL = `
	SELECT greatest((SELECT max(topological_ordering) FROM events WHERE room_id = $1), 0),
	       greatest((SELECT max(stream_ordering) FROM events),
	                CASE WHEN has_sequence_privilege(to_regclass('events_stream_seq')::oid, 'SELECT, USAGE')
	                     THEN pg_sequence_last_value(to_regclass('events_stream_seq')) END,
	                0)`

// keyColumns are the columns that the table events itself has for an event e.
const keyColumns = `
	e.event_id, e.type, e.sender, e.state_key, e.topological_ordering, e.stream_ordering, e.origin_server_ts, e.outlier, e.rejection_reason`

// A loading says what [bans.loaded] reads of each event.
type loading struct {
	// noGroups says that the state groups are not read.
	noGroups bool

	// versions says that the versions of the rows of event_json are read, and noTexts that
	// their texts are not.
	versions, noTexts bool

	// beyond is the condition that an event is beyond [PageQuery.Bytes]. Its JSON is not
	// read then. Defaults to "", no bound.
	beyond string

	// outlines leaves out the JSON on which it does not depend who may see an event.
	outlines bool

	// children is the condition that an event e may be a child, and ignored the condition
	// that its sender is ignored. Defaults to "", no children are read.
	children, ignored string
}

// texts returns the expressions for the JSON of an event, for its internal metadata and for
// the JSON of its redaction.
func (l loading) texts() (event, metadata, redaction string) {
	event, metadata, redaction = `j.json`, `j.internal_metadata`, `d.json`
	if l.outlines {
		event = `CASE WHEN j.size IS NULL OR e.type = ANY (ARRAY['m.room.member', 'm.room.history_visibility']::text[]) THEN j.json ELSE '{}' END`
		redaction = `NULL`
	}
	var unless []string
	if l.beyond != "" {
		unless = append(unless, l.beyond)
	}
	if l.children != "" {
		unless = append(unless, `e.parent IS NOT NULL`)
	}
	if len(unless) > 0 {
		condition := `CASE WHEN NOT (` + strings.Join(unless, ` OR `) + `) THEN `
		event, redaction = condition+event+` END`, condition+redaction+` END`
	}
	switch {
	case !l.noTexts:
	case l.children != "":
		event, metadata = `NULL::text`, `CASE WHEN e.parent IS NOT NULL THEN j.internal_metadata END`
	default:
		event, metadata = `NULL::text`, `NULL::text`
	}
	return event, metadata, redaction
}

// beyondBytes returns the condition that the JSON of the events before an event has
// reached a number of bytes, in an order. The size of an event's is known without reading it.
func beyondBytes(order, bytes, size string) string {
	return `coalesce(sum(coalesce(` + size + `, 0)::bigint + coalesce(octet_length(d.json), 0)::bigint)
			OVER (` + order + ` ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)::bigint, 0::bigint) >= ` + bytes + `::bigint`
}

// loaded returns the statement that reads the events of the room $1 that the query
// keys finds, for [Page.read].
//
// A table with a row for every event is read one event after another, by its index:
// the planner does not turn subqueries with a LIMIT into joins of whole tables,
// whatever number of events it expects. A table with rows for few events is read
// once for the whole page, and so is the table of state groups: an array of ids is
// looked up faster than one id after another. If a corrupt index has an event twice
// there, the event has two rows.
func (has bans) loaded(keys string, load loading) string {
	event, metadata, redaction := load.texts()
	version := `NULL::xid, NULL::tid`
	columns := `octet_length(j.json) AS size, j.internal_metadata, j.format_version`
	if !load.noTexts {
		columns += `, j.json`
	}
	if load.versions {
		version = `j.xmin, j.ctid`
		columns += `, ` + version
	}
	beyond := load.beyond
	if beyond == "" {
		beyond = `false`
	}
	page, related, child := `page AS MATERIALIZED (`+keys+`), few AS MATERIALIZED (`+fewRelations+`)`, relatedOnPage, `NULL::text, NULL::text, 0::bigint, false`
	if load.children != "" {
		page, related, child = load.pageWithChildren(keys), relatedWithChildren, load.child()
	}
	group, groups, join := `g.state_group`, `, grouped AS MATERIALIZED (
			SELECT g.event_id, g.state_group FROM event_to_state_groups g WHERE g.event_id = ANY (ARRAY(SELECT event_id FROM page)))`, `
		LEFT JOIN grouped g ON g.event_id = e.event_id`
	if load.noGroups {
		group, groups, join = `NULL::bigint`, ``, ``
	}
	return `
		WITH ` + page + `, redacted AS MATERIALIZED (` + has.redactionsOfPage() + `), related AS MATERIALIZED (` + relatedByFew + `)` + groups + `
		SELECT ` + group + `,
			e.event_id, e.type, coalesce(e.sender, ''), e.state_key, e.topological_ordering, e.stream_ordering,
			e.origin_server_ts, e.outlier,
			(SELECT r.room_version FROM rooms r WHERE r.room_id = $1),
			` + event + `, ` + metadata + `, d.event_id, ` + redaction + `, d.internal_metadata, coalesce(d.redacted, false), ` + related + `,
			j.size IS NOT NULL, ` + version + `, coalesce(j.format_version, 1), ` + beyond + `,
			e.rejection_reason IS NOT NULL
			OR e.event_id = ANY (ARRAY(SELECT x.event_id FROM rejections x WHERE x.event_id = ANY (ARRAY(SELECT event_id FROM page))))
			OR e.type = 'm.room.redaction' AND ` + redactsSomething + ` IS NOT TRUE, ` + child + `
		FROM page e
		LEFT JOIN LATERAL (
			SELECT ` + columns + ` FROM event_json j WHERE j.event_id = e.event_id LIMIT 1
		) j ON true` + join + `
		LEFT JOIN redacted d ON d.redacts = e.event_id
		LEFT JOIN related r ON r.relates_to_id = e.event_id`
}

// usualLimit is the usual maximum of a page's limit.
const usualLimit = 100

// read reads the rows of loaded. A row beyond the limit only means that there are
// more. The rows of children come last.
func (p *Page) read(rows pgx.Rows, limit int) error {
	var row pageRow
	p.Events = make([]Event, 0, min(limit, usualLimit))
	last := ""
	_, err := pgx.ForEachRow(rows, row.columns(), func() error {
		row.Related = relatedOf(row.related)
		switch {
		case row.parent != nil:
			p.Children.add(&row)
			return nil
		case p.Rows > 0 && row.ID == last:
			return nil
		case p.Rows >= limit || row.beyond:
			p.More, p.Cut = true, p.Cut || p.Rows < limit
			return nil
		}
		p.Rows++
		last = row.ID
		row.place()
		p.Last = &matrix.Token{Topological: row.Topological, Stream: row.Stream}
		if !row.dropped && row.there && formatFits(row.RoomVersion, row.format) {
			p.Events = append(p.Events, row.Event)
			p.versions = append(p.versions, row.version.version())
		}
		return nil
	})
	return err
}

// A pageRow is a row of loaded.
type pageRow struct {
	Event
	stream, origin *int64
	related        int

	// there says that the event has JSON, format is that of its JSON, beyond says that it
	// is beyond the bound of the page, and dropped that readers must not see it.
	there   bool
	version versionColumns
	format  int
	beyond  bool
	dropped bool

	// parent and relation are those of a child, whose JSON has this size. They are nil for
	// the events of the page itself.
	parent, relation *string
	size             int64
	ignored          bool
}

// columns returns where to scan a row.
func (r *pageRow) columns() []any {
	return []any{
		&r.StateGroup, &r.ID, &r.Type, &r.Sender, &r.StateKey, &r.Topological, &r.stream, &r.origin, &r.Outlier,
		&r.RoomVersion, (*[]byte)(&r.JSON), (*[]byte)(&r.InternalMetadata), &r.RedactedBy, (*[]byte)(&r.Redaction), (*[]byte)(&r.RedactionMetadata), &r.RedactionRedacted, &r.related,
		&r.there, &r.version.transaction, &r.version.place, &r.format, &r.beyond, &r.dropped,
		&r.parent, &r.relation, &r.size, &r.ignored,
	}
}

// place sets the event's place and its time, which are 0 if they are unknown.
func (r *pageRow) place() {
	r.Stream, r.OriginTS = 0, 0
	if r.stream != nil {
		r.Stream = *r.stream
	}
	if r.origin != nil {
		r.OriginTS = *r.origin
	}
}

// formatFits reports whether a room of this version has events of this format. In a
// room of unknown version every format fits.
func formatFits(version *string, format int) bool {
	if version == nil {
		return true
	}
	want, ok := matrix.RoomVersion(*version).EventFormat()
	return ok && format == want
}

// sql returns the statement of the query. It returns one row per event, and one more
// if there are more than the limit. The text depends on which bounds and parts of
// the filter are set, never on their values.
//
// The innermost query reads only events, in the order of the index events_order_room
// from the bound on, until it has enough. Everything else is looked up for these.
//
// The filter is outside of the ordered subquery, which OFFSET keeps as it is. So the
// planner sees that a few rows of an ordered result are needed, and walks the index.
// Otherwise it expects the filter to be selective and to find too few events, and
// reads and sorts the whole room, or the table, for every page. If the filter is
// selective indeed, the walk goes on until there are enough events, in the worst
// case through the whole room: no index of Synapse's begins with a room and a type,
// a sender or a relation. Two indexes do help and are used: that of events with a
// URL, and that of labels.
//
// Bounds of live tokens are checked in the index too, which has the place in the
// stream: events that arrived too early or too late are skipped without reading
// them.
func (q PageQuery) sql(names writerNames, has bans, load loading) (string, []any) {
	var p parameters
	p.add(q.Room) // must be $1, as [bans.loaded] expects
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
		// The index of labels is ordered for each label, except for events of the same
		// depth.
		labels := p.add(q.Filter.Labels)
		each := strings.ReplaceAll(order, "e.topological_ordering", "t.topological_ordering")
		keys = `
		SELECT DISTINCT ON (e.topological_ordering, e.stream_ordering) e.*
		FROM pg_catalog.unnest(` + labels + `::text[]) AS asked (label)
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
	load.noGroups = q.NoStateGroups
	if q.Children != nil {
		q.Children.load(&load, &p)
		order = ` ORDER BY e.parent IS NOT NULL,` + strings.TrimPrefix(order, ` ORDER BY`)
	}
	if q.Bytes > 0 {
		load.beyond = beyondBytes(order, p.add(q.Bytes), `j.size`)
	}
	return has.loaded(keys, load) + order, p.values
}

// bounds returns the condition that an event e is in the timeline and within the
// bounds.
func (q PageQuery) bounds(p *parameters, names writerNames) string {
	var sql strings.Builder
	// The conditions of a partial index are repeated here, so that it can be used.
	if q.Reader != nil {
		// The membership is looked up once, before everything else.
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
			minStream := p.add(q.After.Stream())
			sql.WriteString(` AND e.stream_ordering > ` + minStream)
			if q.After.Stream() > 0 {
				sql.WriteString(` AND e.topological_ordering >= ` + lowestAfter(minStream))
			}
			if len(q.After.Writers()) > 0 {
				sql.WriteString(` AND e.stream_ordering > ` + names.positionOf(p, *q.After, minStream))
			}
		}
	}
	if q.Floor != nil {
		place(">", *q.Floor)
	}
	highest := q.Ceiling
	if q.UpTo != nil {
		if at, historic := q.UpTo.Historic(); !historic {
			minStream := p.add(q.UpTo.Stream())
			if writers := q.UpTo.Writers(); len(writers) == 0 {
				sql.WriteString(` AND e.stream_ordering <= ` + minStream)
			} else {
				maxStream := q.UpTo.Stream()
				for _, writer := range writers {
					maxStream = max(maxStream, writer.Stream)
				}
				fmt.Fprintf(&sql, ` AND e.stream_ordering <= %s AND e.stream_ordering <= %s`,
					p.add(maxStream), names.positionOf(p, *q.UpTo, minStream))
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

// labelBounds returns the bounds of the depth for the index of labels, each followed
// by AND.
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

// maxArrivals is how many events after a live token [lowestAfter] reads.
const maxArrivals = 200

// lowestAfter returns the lowest depth of the events that arrived after a place in
// the stream, or 0 if these are many. With it, the walk by depth need not pass over
// all older events, nor go on below.
//
// The room is selected by a range that holds only this room. With a plain equality
// the planner may walk through the stream of all rooms.
func lowestAfter(stream string) string {
	return `(
		SELECT CASE WHEN count(*) = 0 THEN ` + strconv.FormatInt(math.MaxInt64, 10) + `
		            WHEN count(*) > ` + strconv.Itoa(maxArrivals) + ` THEN 0
		            ELSE min(n.topological_ordering) END
		FROM (
			SELECT n.topological_ordering FROM events n
			WHERE (n.room_id, n.stream_ordering) > ($1, ` + stream + `) AND n.room_id <= $1
			ORDER BY n.room_id, n.stream_ordering
			LIMIT ` + strconv.Itoa(maxArrivals+1) + `
		) n)`
}

// sql returns the conditions of the filter that [PageQuery.bounds] and the labels do
// not cover, each after an AND. Relations are looked up for one event after another,
// as in loaded.
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

// wantsNothing reports whether the filter selects no event at all.
func (f EventFilter) wantsNothing() bool {
	empty := func(list []string) bool { return list != nil && len(list) == 0 }
	return (f.Types != nil || f.TypePatterns != nil) && len(f.Types)+len(f.TypePatterns) == 0 ||
		empty(f.Senders) || empty(f.Labels) || empty(f.RelatedBySenders) || empty(f.RelatedByTypes) || empty(f.RelationTypes)
}

// parameters are the parameters of a statement.
type parameters struct{ values []any }

// add adds a parameter, and returns its placeholder.
func (p *parameters) add(value any) string {
	p.values = append(p.values, value)
	return "$" + strconv.Itoa(len(p.values))
}

// writerNames are the names of writers by their numbers in tokens.
type writerNames map[int64]string

// writerNames reads the names of the writers in the bounds. An unknown writer has
// written nothing.
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
	// A database that never had several writers may lack the table.
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

// positionOf returns the token's position of the writer of an event e. Events of an
// unknown writer count as the main process's.
func (names writerNames) positionOf(p *parameters, token matrix.PageToken, minStream string) string {
	var writers []string
	var streams []int64
	for _, position := range token.Writers() {
		if name, ok := names[position.Writer]; ok {
			writers, streams = append(writers, name), append(streams, position.Stream)
		}
	}
	return `coalesce((
		SELECT w.stream FROM unnest(` + p.add(writers) + `::text[], ` + p.add(streams) + `::bigint[]) AS w (name, stream)
		WHERE w.name = coalesce(e.instance_name, 'master') LIMIT 1), ` + minStream + `)`
}
