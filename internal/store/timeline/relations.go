package timeline

import (
	"context"
	"fmt"

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
// these relations apply is not checked.
type Related struct{ Referenced, Edited, Thread bool }

// relatedOf decodes the result of related and relatedOnPage.
func relatedOf(bits int) Related {
	return Related{Referenced: bits&1 != 0, Edited: bits&2 != 0, Thread: bits&4 != 0}
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

var relatedOnPage = `CASE WHEN (SELECT count(*) FROM few) < ` + maxRelations + ` THEN coalesce(r.bits, 0) ELSE ` + related("e.event_id") + ` END`

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
}

// Bundles is the result of a BundleQuery, by the ids in it. An id without a result
// is left out.
type Bundles struct {
	// Replaced are as [Snapshot.Events] reads them.
	Replaced map[string]Event

	// Threads are the threads of the roots. Only the last event of a thread is read,
	// however long it is.
	Threads map[string]Thread

	// References are the ids of the events that refer to a parent, in the order of the
	// timeline.
	References map[string][]string

	// Edits are the latest edits by the same sender and of the same type.
	Edits map[string]Event
}

// Bundles runs the query in one round trip. Without ids it sends nothing.
func (s *Snapshot) Bundles(ctx context.Context, query BundleQuery) (Bundles, error) {
	found := Bundles{
		Replaced: map[string]Event{}, Threads: map[string]Thread{}, References: map[string][]string{}, Edits: map[string]Event{},
	}
	batch := &pgx.Batch{}
	if replaced := postgres.OnlyStorable(query.Replaced); len(replaced) > 0 && postgres.Storable(query.Room) {
		batch.Queue(s.bans.eventsSQL(), replaced, query.Room).Query(func(rows pgx.Rows) (err error) {
			found.Replaced, err = eventsOf(rows)
			return err
		})
	}
	if postgres.Storable(query.Room) && postgres.Storable(query.Reader) && postgres.Storable(query.Ignorer) {
		query.queueThreads(batch, s.bans, found.Threads)
		query.queueReferences(batch, found.References)
		query.queueEdits(batch, s.bans, found.Edits)
	}
	if batch.Len() == 0 {
		return found, nil
	}
	if err := s.tx.Send(ctx, batch); err != nil {
		return Bundles{}, fmt.Errorf("read what belongs to events: %w", err)
	}
	return found, nil
}

// childrenSQL are the events c of the room $2 up to the ceiling that were not rejected,
// with their relations r. OFFSET keeps the planner from joining whole tables: it cannot
// know that most parents have few children.
func (q BundleQuery) childrenSQL(p *parameters) string {
	below := ""
	if q.Ceiling != nil {
		below = ` AND (c.topological_ordering, c.stream_ordering) <= (` + p.add(q.Ceiling.Topological) + `, ` + p.add(q.Ceiling.Stream) + `)`
	}
	return `
		event_relations r
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
func (q BundleQuery) childrenWithIgnoredSQL(p *parameters) string {
	return q.childrenSQL(p) + `
		LEFT JOIN ignored_users i ON i.ignorer_user_id = $3 AND i.ignored_user_id = c.sender`
}

func (q BundleQuery) queueThreads(batch *pgx.Batch, has bans, threads map[string]Thread) {
	roots := postgres.OnlyStorable(q.Roots)
	if len(roots) == 0 {
		return
	}
	p := parameters{values: []any{roots, q.Room, q.Ignorer, q.Reader}}
	// The largest pair of orderings is found without a sort, and identifies one event.
	batch.Queue(`
		SELECT asked.root, asked.count, asked.participated, `+related("asked.event_id")+`,`+eventColumns+`
		FROM (
			SELECT roots.id AS root, t.count, t.participated, latest.event_id
			FROM pg_catalog.unnest($1::text[]) AS roots (id)
			CROSS JOIN LATERAL (
				SELECT count(*) FILTER (WHERE i.ignored_user_id IS NULL) AS count,
				       coalesce(bool_or(c.sender = $4), false) AS participated,
				       pg_catalog.max(ARRAY[c.topological_ordering, c.stream_ordering]) FILTER (WHERE i.ignored_user_id IS NULL) AS latest
				FROM `+q.childrenWithIgnoredSQL(&p)+`
				WHERE r.relates_to_id = roots.id AND r.relation_type = 'm.thread' AND c.stream_ordering IS NOT NULL
			) t
			JOIN events latest ON latest.stream_ordering = t.latest[2]
		) asked`+has.eventTables(), p.values...).Query(func(rows pgx.Rows) error {
		var root string
		var bits int
		var thread Thread
		_, err := pgx.ForEachRow(rows, append([]any{&root, &thread.Count, &thread.Participated, &bits}, thread.Latest.columns()...), func() error {
			thread.Latest.Related = relatedOf(bits)
			threads[root] = thread
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
			FROM `+q.childrenWithIgnoredSQL(&p)+`
			WHERE r.relates_to_id = parents.id AND r.relation_type = 'm.reference' AND i.ignored_user_id IS NULL
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

func (q BundleQuery) queueEdits(batch *pgx.Batch, has bans, edits map[string]Event) {
	originals := postgres.OnlyStorable(q.Originals)
	if len(originals) == 0 {
		return
	}
	p := parameters{values: []any{originals, q.Room}}
	batch.Queue(`
		SELECT asked.original,`+eventColumns+`
		FROM (
			SELECT o.event_id AS original, edit.event_id
			FROM pg_catalog.unnest($1::text[]) AS originals (id)
			JOIN events o ON o.event_id = originals.id AND o.room_id = $2
			CROSS JOIN LATERAL (
				SELECT c.event_id
				FROM `+q.childrenSQL(&p)+`
				WHERE r.relates_to_id = o.event_id AND r.relation_type = 'm.replace' AND c.type = o.type AND c.sender = o.sender
				ORDER BY c.origin_server_ts DESC NULLS LAST, c.event_id DESC
				LIMIT 1
			) edit
		) asked`+has.eventTables(), p.values...).Query(func(rows pgx.Rows) error {
		var original string
		var edit Event
		_, err := pgx.ForEachRow(rows, append([]any{&original}, edit.columns()...), func() error {
			edits[original] = edit
			edit = Event{}
			return nil
		})
		return err
	})
}
