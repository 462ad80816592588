package timeline

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// The types of relations that events are shown with.
const (
	referenceRelation = "m.reference"
	replaceRelation   = "m.replace"
	threadRelation    = "m.thread"
)

// Related says by which types of relations there are events that relate to one.
// Whether they count is another question.
type Related struct{ Referenced, Edited, Thread bool }

// relatedOf reads what related and relatedOnPage found.
func relatedOf(bits int) Related {
	return Related{Referenced: bits&1 != 0, Edited: bits&2 != 0, Thread: bits&4 != 0}
}

// related is an expression that says how others relate to an event. The limits keep the
// server from reading all of a long thread, and from any plan but that of an index.
func related(event string) string {
	any := func(kind string) string {
		return `(SELECT true FROM event_relations r WHERE r.relates_to_id = ` + event + kind + ` LIMIT 1) IS TRUE`
	}
	of := func(kind string) string { return `(` + any(` AND r.relation_type = '`+kind+`'`) + `)::int` }
	return `CASE WHEN ` + any("") + ` THEN ` + of(referenceRelation) + ` + 2 * ` + of(replaceRelation) + ` + 4 * ` + of(threadRelation) + ` ELSE 0 END`
}

// Most events have no relation at all, which one scan of an index says for all of a
// page, and nearly all others few. So fewRelations reads at most mostRelations of them,
// and relatedOnPage believes it for a page e with related as r, unless there may be more.
const (
	mostRelations = `500`

	fewRelations = `
		SELECT r.relates_to_id, r.relation_type FROM event_relations r
		WHERE r.relates_to_id = ANY (ARRAY(SELECT event_id FROM page)) LIMIT ` + mostRelations

	relatedByFew = `
		SELECT relates_to_id,
		       bit_or(CASE relation_type
		              WHEN '` + referenceRelation + `' THEN 1 WHEN '` + replaceRelation + `' THEN 2 WHEN '` + threadRelation + `' THEN 4 ELSE 0
		              END) AS bits
		FROM few GROUP BY relates_to_id`
)

var relatedOnPage = `CASE WHEN (SELECT count(*) FROM few) < ` + mostRelations + ` THEN coalesce(r.bits, 0) ELSE ` + related("e.event_id") + ` END`

// A Thread is what is known about the replies in a thread.
type Thread struct {
	// Count is how many there are.
	Count int64

	// Participated says that the reader sent one of them.
	Participated bool

	// Latest is the last of them, with its [Event.Related].
	Latest Event
}

// A BundleQuestion asks for what events of a page are to be shown with. The caller
// bounds how many there are.
type BundleQuestion struct {
	Room string

	// Reader is who gets them. What users say whom the Ignorer ignores relates to
	// nothing, unless it is an edit.
	Reader, Ignorer string

	// Replaced are events that state events have replaced, Roots those that threads
	// hang on, Parents those that others refer to, and Originals those that were
	// edited. They may be any texts.
	Replaced, Roots, Parents, Originals []string
}

// Bundles is the answer, by the ids that were asked for. What there is nothing of is
// left out.
type Bundles struct {
	// Replaced are as [Snapshot.Events] reads them.
	Replaced map[string]Event

	// Threads are what hangs on the roots. However long one is, one event of it is
	// read.
	Threads map[string]Thread

	// References are the ids of those that refer to a parent, in the order of the
	// timeline.
	References map[string][]string

	// Edits are the latest ones: of those by the same sender and of the same type.
	Edits map[string]Event
}

// Bundles reads them, in one round trip. Without ids it asks nothing.
func (s *Snapshot) Bundles(ctx context.Context, question BundleQuestion) (Bundles, error) {
	found := Bundles{
		Replaced: map[string]Event{}, Threads: map[string]Thread{}, References: map[string][]string{}, Edits: map[string]Event{},
	}
	batch := &pgx.Batch{}
	if replaced := postgres.OnlyStorable(question.Replaced); len(replaced) > 0 {
		batch.Queue(eventsSQL, replaced).Query(func(rows pgx.Rows) (err error) {
			found.Replaced, err = eventsOf(rows)
			return err
		})
	}
	if postgres.Storable(question.Room) && postgres.Storable(question.Reader) && postgres.Storable(question.Ignorer) {
		question.queueThreads(batch, found.Threads)
		question.queueReferences(batch, found.References)
		question.queueEdits(batch, found.Edits)
	}
	if batch.Len() == 0 {
		return found, nil
	}
	if err := s.tx.Send(ctx, batch); err != nil {
		return Bundles{}, fmt.Errorf("read what belongs to events: %w", err)
	}
	return found, nil
}

const (
	// childrenSQL are the events c that were not rejected, of the room $2, with
	// their relations r. OFFSET keeps the planner from joining whole tables: it
	// cannot know that most parents have few children.
	childrenSQL = `
		event_relations r
		CROSS JOIN LATERAL (
			SELECT c.event_id, c.type, c.sender, c.topological_ordering, c.stream_ordering, c.origin_server_ts
			FROM events c
			WHERE c.event_id = r.event_id AND c.room_id = $2 AND c.rejection_reason IS NULL
			  AND NOT EXISTS (SELECT FROM rejections x WHERE x.event_id = c.event_id)
			OFFSET 0
		) c`

	// heededSQL are those of them with i, their senders if the user $3 ignores them.
	heededSQL = childrenSQL + `
		LEFT JOIN ignored_users i ON i.ignorer_user_id = $3 AND i.ignored_user_id = c.sender`
)

func (q BundleQuestion) queueThreads(batch *pgx.Batch, threads map[string]Thread) {
	roots := postgres.OnlyStorable(q.Roots)
	if len(roots) == 0 {
		return
	}
	// The largest pair of orderings is found without a sort, and is of one event.
	batch.Queue(`
		SELECT asked.root, asked.count, asked.participated, `+related("asked.event_id")+`,`+eventColumns+`
		FROM (
			SELECT roots.id AS root, t.count, t.participated, latest.event_id
			FROM unnest($1::text[]) AS roots (id)
			CROSS JOIN LATERAL (
				SELECT count(*) FILTER (WHERE i.ignored_user_id IS NULL) AS count,
				       coalesce(bool_or(c.sender = $4), false) AS participated,
				       max(ARRAY[c.topological_ordering, c.stream_ordering]) FILTER (WHERE i.ignored_user_id IS NULL) AS latest
				FROM `+heededSQL+`
				WHERE r.relates_to_id = roots.id AND r.relation_type = 'm.thread' AND c.stream_ordering IS NOT NULL
			) t
			JOIN events latest ON latest.stream_ordering = t.latest[2]
		) asked`+eventTables, roots, q.Room, q.Ignorer, q.Reader).Query(func(rows pgx.Rows) error {
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

func (q BundleQuestion) queueReferences(batch *pgx.Batch, references map[string][]string) {
	parents := postgres.OnlyStorable(q.Parents)
	if len(parents) == 0 {
		return
	}
	batch.Queue(`
		SELECT parents.id, children.ids
		FROM unnest($1::text[]) AS parents (id)
		CROSS JOIN LATERAL (
			SELECT array_agg(c.event_id ORDER BY c.topological_ordering, c.stream_ordering) AS ids
			FROM `+heededSQL+`
			WHERE r.relates_to_id = parents.id AND r.relation_type = 'm.reference' AND i.ignored_user_id IS NULL
		) children
		WHERE children.ids IS NOT NULL`, parents, q.Room, q.Ignorer).Query(func(rows pgx.Rows) error {
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

func (q BundleQuestion) queueEdits(batch *pgx.Batch, edits map[string]Event) {
	originals := postgres.OnlyStorable(q.Originals)
	if len(originals) == 0 {
		return
	}
	batch.Queue(`
		SELECT asked.original,`+eventColumns+`
		FROM (
			SELECT o.event_id AS original, edit.event_id
			FROM unnest($1::text[]) AS originals (id)
			JOIN events o ON o.event_id = originals.id AND o.room_id = $2
			CROSS JOIN LATERAL (
				SELECT c.event_id
				FROM `+childrenSQL+`
				WHERE r.relates_to_id = o.event_id AND r.relation_type = 'm.replace' AND c.type = o.type AND c.sender = o.sender
				ORDER BY c.origin_server_ts DESC NULLS LAST, c.event_id DESC
				LIMIT 1
			) edit
		) asked`+eventTables, originals, q.Room).Query(func(rows pgx.Rows) error {
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
