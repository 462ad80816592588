package timeline

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strconv"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// The types of relations that events are shown with.
const (
	referenceRelation = "m.reference"
	replaceRelation   = "m.replace"
	threadRelation    = "m.thread"
)

// Related says by which types of relations other events relate to an event. Whether
// these relations apply is not checked. Many says that the events of the page have so many
// relations that [Snapshot.CountRelated] should be asked before [Snapshot.Bundles].
type Related struct{ Referenced, Edited, Thread, Many bool }

// relatedOf decodes the result of related and relatedOnPage.
func relatedOf(bits int) Related {
	return Related{Referenced: bits&1 != 0, Edited: bits&2 != 0, Thread: bits&4 != 0, Many: bits&8 != 0}
}

// related returns an expression for how other events relate to an event. The limits
// keep the server from reading all of a long thread, and from any plan but an index
// scan.
func related(event string) string {
	any := func(kind string) string {
		return `(SELECT true FROM event_relations r WHERE r.relates_to_id = ` + event + kind + ` LIMIT 1) IS TRUE`
	}
	of := func(kind string) string { return `(` + any(` AND r.relation_type = '`+kind+`'`) + `)::int` }
	return `CASE WHEN ` + any("") + ` THEN ` + of(referenceRelation) + ` + 2 * ` + of(replaceRelation) + ` + 4 * ` + of(threadRelation) + ` ELSE 0 END`
}

// Most events have no relation, which one scan of an index finds out for a whole
// page, and nearly all other events have few. So fewRelations reads at most
// maxRelations relations. relatedOnPage uses them for a page e with related as r,
// unless there may be more.
const (
	maxRelations = `500`

	fewRelations = `
		SELECT r.relates_to_id, r.relation_type FROM event_relations r
		WHERE r.relates_to_id = ANY (ARRAY(SELECT event_id FROM page)) LIMIT ` + maxRelations

	relatedByFew = `
		SELECT relates_to_id,
		       bit_or(CASE relation_type
		              WHEN '` + referenceRelation + `' THEN 1 WHEN '` + replaceRelation + `' THEN 2 WHEN '` + threadRelation + `' THEN 4 ELSE 0
		              END) AS bits
		FROM few GROUP BY relates_to_id`
)

var relatedOnPage = `CASE WHEN (SELECT count(*) FROM few) < ` + maxRelations + ` THEN coalesce(r.bits, 0) ELSE 8 + ` + related("e.event_id") + ` END`

// MaxRelated is how many of the events that relate to one by a type of relation are read.
// If there are more, nearly all that are read are those that were written last.
const MaxRelated = 5000

// maxReplies is the largest number of replies that is counted in a thread.
const maxReplies = 200_000

// RelatedCounts are the numbers of events that refer to an event, edit it, and reply in its
// thread. Each is at most MaxRelated.
type RelatedCounts struct{ References, Edits, Replies int }

// CountRelated counts the relations to the events in an index. It does not check whether the
// relations apply. The caller must bound the number of ids.
func (s *Snapshot) CountRelated(ctx context.Context, ids []string) (map[string]RelatedCounts, error) {
	counts := map[string]RelatedCounts{}
	if ids = postgres.OnlyStorable(ids); len(ids) == 0 {
		return counts, nil
	}
	count := func(kind string) string {
		return `(SELECT count(*) FROM (
			SELECT FROM event_relations r WHERE r.relates_to_id = asked.id AND r.relation_type = '` + kind + `' LIMIT $2) few)`
	}
	rows, err := s.tx.Query(ctx, `
		SELECT asked.id, `+count(referenceRelation)+`, `+count(replaceRelation)+`, `+count(threadRelation)+`
		FROM pg_catalog.unnest($1::text[]) AS asked (id)`, ids, MaxRelated)
	if err == nil {
		var id string
		var found RelatedCounts
		_, err = pgx.ForEachRow(rows, []any{&id, &found.References, &found.Edits, &found.Replies}, func() error {
			counts[id] = found
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("count what relates to events: %w", err)
	}
	return counts, nil
}

// A Thread describes the replies in a thread.
type Thread struct {
	// Count is the number of replies.
	Count int64

	// Participated says that the reader has sent one of them.
	Participated bool

	// Latest is the last reply, with its [Event.Related].
	Latest Event
}

// A BundleQuery asks for the events that are shown with the events of a page. The
// caller must bound their number.
type BundleQuery struct {
	Room string

	// Reader is the user who gets the page. Events of users whom the Ignorer ignores do
	// not count, unless they are edits.
	Reader, Ignorer string

	// Ceiling is the place after which no event relates to others. Defaults to nil: all
	// do.
	Ceiling *matrix.Token

	// Replaced are the events that state events have replaced, Roots the roots of
	// threads, Parents the events that others refer to, and Originals the edited
	// events. They may be any texts.
	Replaced, Roots, Parents, Originals []string

	// Bytes bounds the JSON of the replaced events with that of their redactions, that of
	// the last replies of threads and that of the edits, each in the order of the ids: what
	// follows the event that reaches it is not read. Defaults to 0, no bound.
	Bytes int

	// Children are those of the page that has the roots, parents and originals, read with
	// the same Ignorer and Ceiling. Defaults to nil: what relates to these is looked up.
	Children *Children
}

// Bundles is the result of a BundleQuery, by the ids in it. An id without a result
// is left out.
type Bundles struct {
	// Replaced are as [Snapshot.Events] reads them.
	Replaced map[string]Event

	// Threads are the threads of the roots. Only the last event of a thread is read. If a
	// thread has more than MaxRelated replies, all are counted, even those that do not
	// count otherwise, but at most 200,000. The last event is the newest of those
	// that are read and of the one that the homeserver has noted. Who participates is known
	// from those that are read.
	Threads map[string]Thread

	// References are the ids of the events that refer to a parent, in the order of the
	// timeline.
	References map[string][]string

	// Edits are the latest edits by the same sender and of the same type.
	Edits map[string]Event

	// Cut are the ids whose event was not read because of [BundleQuery.Bytes].
	Cut map[string]bool
}

// Bundles runs the query in one round trip. It sends nothing without ids, nor if the children
// and the cache have everything.
func (s *Snapshot) Bundles(ctx context.Context, query BundleQuery) (Bundles, error) {
	found := Bundles{
		Replaced: map[string]Event{}, Threads: map[string]Thread{}, References: map[string][]string{}, Edits: map[string]Event{},
		Cut: map[string]bool{},
	}
	if query.Bytes <= 0 {
		query.Bytes = math.MaxInt
	}
	batch := &pgx.Batch{}
	if replaced := postgres.OnlyStorable(query.Replaced); len(replaced) > 0 && postgres.Storable(query.Room) {
		batch.Queue(s.bans.eventsWithinSQL(), replaced, query.Room, query.Bytes).Query(func(rows pgx.Rows) error {
			events, cut, err := eventsWithin(rows)
			found.Replaced = events
			maps.Copy(found.Cut, cut)
			return err
		})
	}
	known := bundling{Children: query.Children, query: query, found: &found}
	switch {
	case query.Children != nil:
		known.choose()
		s.queueChildren(batch, &known)
	case postgres.Storable(query.Room) && postgres.Storable(query.Reader) && postgres.Storable(query.Ignorer):
		query.queueThreads(batch, s.bans, &found)
		query.queueReferences(batch, found.References)
		query.queueEdits(batch, s.bans, &found)
	}
	if batch.Len() > 0 {
		if err := s.tx.Send(ctx, batch); err != nil {
			return Bundles{}, fmt.Errorf("read what belongs to events: %w", err)
		}
	}
	known.finish()
	return found, nil
}

// lastRelated is the query of the ids of the events that relate to a parent by a type. The
// entries of the index with the same key are in the order of their rows' places in the
// table, so the scan from its end begins with the rows that were written last. The key is
// NULL in all of these types.
func lastRelated(parent, kind string) string {
	return `SELECT r.event_id FROM event_relations r
			WHERE r.relates_to_id = ` + parent + ` AND r.relation_type = '` + kind + `'
			ORDER BY r.aggregation_key DESC LIMIT ` + strconv.Itoa(MaxRelated)
}

// childrenSQL are the events c of the room $2 up to the ceiling that were not rejected,
// of those that related finds. OFFSET keeps the planner from joining whole tables: it cannot
// know that most parents have few children.
func (q BundleQuery) childrenSQL(p *parameters, related string) string {
	below := ""
	if q.Ceiling != nil {
		below = ` AND (c.topological_ordering, c.stream_ordering) <= (` + p.add(q.Ceiling.Topological) + `, ` + p.add(q.Ceiling.Stream) + `)`
	}
	return `
		(` + related + `) r
		CROSS JOIN LATERAL (
			SELECT c.event_id, c.type, c.sender, c.topological_ordering, c.stream_ordering, c.origin_server_ts
			FROM events c
			WHERE c.event_id = r.event_id AND c.room_id = $2 AND c.rejection_reason IS NULL
			  AND NOT EXISTS (SELECT FROM rejections x WHERE x.event_id = c.event_id)` + below + `
			OFFSET 0
		) c`
}

// childrenWithIgnoredSQL joins them with i, which has a row if the user $3 ignores
// their sender.
func (q BundleQuery) childrenWithIgnoredSQL(p *parameters, related string) string {
	return q.childrenSQL(p, related) + `
		LEFT JOIN ignored_users i ON i.ignorer_user_id = $3 AND i.ignored_user_id = c.sender`
}

func (q BundleQuery) queueThreads(batch *pgx.Batch, has bans, found *Bundles) {
	roots := postgres.OnlyStorable(q.Roots)
	if len(roots) == 0 {
		return
	}
	p := parameters{values: []any{roots, q.Room, q.Ignorer, q.Reader, q.Bytes}}
	// The last reply of a long thread may not be among those that were written last: a
	// purge leaves places in the table that new rows take. The homeserver's note of it may
	// be older than a redaction, so it must still be a reply.
	replies := lastRelated("roots.id", threadRelation)
	replies = `(` + replies + `)
			UNION
			SELECT h.latest_event_id FROM threads h
			WHERE roots.replies > ` + strconv.Itoa(MaxRelated) + ` AND h.room_id = $2 AND h.thread_id = roots.id AND EXISTS (
				SELECT FROM event_relations r
				WHERE r.event_id = h.latest_event_id AND r.relates_to_id = roots.id AND r.relation_type = '` + threadRelation + `')`
	// The largest pair of orderings is found without a sort, and identifies one event.
	batch.Queue(`
		WITH roots AS MATERIALIZED (
			SELECT asked.id, asked.place, (
				SELECT count(*) FROM (
					SELECT FROM event_relations r
					WHERE r.relates_to_id = asked.id AND r.relation_type = '`+threadRelation+`' LIMIT `+strconv.Itoa(maxReplies)+`
				) r) AS replies
			FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS asked (id, place)
		)
		SELECT asked.root, asked.count, asked.participated, `+related("asked.event_id")+`,`+eventColumnsWithin("asked.place", "$5")+`
		FROM (
			SELECT roots.id AS root, roots.place, t.participated, latest.event_id,
			       CASE WHEN roots.replies > `+strconv.Itoa(MaxRelated)+` THEN roots.replies ELSE t.count END AS count
			FROM roots
			CROSS JOIN LATERAL (
				SELECT count(*) FILTER (WHERE i.ignored_user_id IS NULL) AS count,
				       coalesce(bool_or(c.sender = $4), false) AS participated,
				       pg_catalog.max(ARRAY[c.topological_ordering, c.stream_ordering]) FILTER (WHERE i.ignored_user_id IS NULL) AS latest
				FROM `+q.childrenWithIgnoredSQL(&p, replies)+`
				WHERE c.stream_ordering IS NOT NULL
			) t
			JOIN events latest ON latest.stream_ordering = t.latest[2]
		) asked`+has.eventTables(), p.values...).Query(func(rows pgx.Rows) error {
		var root string
		var bits int
		var thread Thread
		var beyond bool
		columns := append([]any{&root, &thread.Count, &thread.Participated, &bits}, thread.Latest.columns()...)
		_, err := pgx.ForEachRow(rows, append(columns, &beyond), func() error {
			if thread.Latest.Related = relatedOf(bits); beyond {
				found.Cut[root] = true
			} else {
				found.Threads[root] = thread
			}
			thread = Thread{}
			return nil
		})
		return err
	})
}

func (q BundleQuery) queueReferences(batch *pgx.Batch, references map[string][]string) {
	parents := postgres.OnlyStorable(q.Parents)
	if len(parents) == 0 {
		return
	}
	p := parameters{values: []any{parents, q.Room, q.Ignorer}}
	batch.Queue(`
		SELECT parents.id, children.ids
		FROM pg_catalog.unnest($1::text[]) AS parents (id)
		CROSS JOIN LATERAL (
			SELECT pg_catalog.array_agg(c.event_id ORDER BY c.topological_ordering, c.stream_ordering) AS ids
			FROM `+q.childrenWithIgnoredSQL(&p, lastRelated("parents.id", referenceRelation))+`
			WHERE i.ignored_user_id IS NULL
		) children
		WHERE children.ids IS NOT NULL`, p.values...).Query(func(rows pgx.Rows) error {
		var parent string
		var ids []string
		_, err := pgx.ForEachRow(rows, []any{&parent, &ids}, func() error {
			references[parent] = ids
			ids = nil
			return nil
		})
		return err
	})
}

func (q BundleQuery) queueEdits(batch *pgx.Batch, has bans, found *Bundles) {
	originals := postgres.OnlyStorable(q.Originals)
	if len(originals) == 0 {
		return
	}
	p := parameters{values: []any{originals, q.Room, q.Bytes}}
	batch.Queue(`
		SELECT asked.original,`+eventColumnsWithin("asked.place", "$3")+`
		FROM (
			SELECT o.event_id AS original, originals.place, edit.event_id
			FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS originals (id, place)
			JOIN events o ON o.event_id = originals.id AND o.room_id = $2
			CROSS JOIN LATERAL (
				SELECT c.event_id
				FROM `+q.childrenSQL(&p, lastRelated("o.event_id", replaceRelation))+`
				WHERE c.type = o.type AND c.sender = o.sender
				ORDER BY c.origin_server_ts DESC NULLS LAST, c.event_id DESC
				LIMIT 1
			) edit
		) asked`+has.eventTables(), p.values...).Query(func(rows pgx.Rows) error {
		var original string
		var edit Event
		var beyond bool
		_, err := pgx.ForEachRow(rows, append(append([]any{&original}, edit.columns()...), &beyond), func() error {
			if beyond {
				found.Cut[original] = true
			} else {
				found.Edits[original] = edit
			}
			edit = Event{}
			return nil
		})
		return err
	})
}
