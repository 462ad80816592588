package timeline

import (
	"cmp"
	"slices"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
	"lethe/internal/store/rowcache"

	"github.com/jackc/pgx/v5"
)

// A ChildQuery asks for the children of a page: the events that relate to its events. The
// statement of the page reads them, too.
type ChildQuery struct {
	// Ignorer is a user. Children of senders whom this user ignores do not count, unless
	// they are edits. Defaults to "", so that all count.
	Ignorer string

	// Ceiling is the last place of the timeline at which an event counts as a child.
	// Defaults to nil, no last place.
	Ceiling *matrix.Token
}

// load makes the statement of a page read the children.
func (q ChildQuery) load(load *loading, p *parameters) {
	load.children, load.ignored = `true`, `false`
	if q.Ceiling != nil {
		load.children = `(e.topological_ordering, e.stream_ordering) <= (` + p.add(q.Ceiling.Topological) + `, ` + p.add(q.Ceiling.Stream) + `)`
	}
	if q.Ignorer != "" {
		load.ignored = `e.parent IS NOT NULL AND (
			SELECT true FROM ignored_users i WHERE i.ignorer_user_id = ` + p.add(q.Ignorer) + ` AND i.ignored_user_id = e.sender LIMIT 1) IS TRUE`
	}
}

// pageWithChildren is the SQL of three tables: line has the events that keys finds, few their
// relations, and page the events and their children. If few has maxRelations rows, page has
// no children.
func (l loading) pageWithChildren(keys string) string {
	return `line AS MATERIALIZED (` + keys + `),
		     few AS MATERIALIZED (
			SELECT r.relates_to_id, r.relation_type, r.event_id FROM event_relations r
			WHERE r.relates_to_id = ANY (ARRAY(SELECT event_id FROM line)) LIMIT ` + maxRelations + `),
		     page AS MATERIALIZED (
			SELECT line.*, NULL::text AS parent, NULL::text AS relation FROM line
			UNION ALL
			SELECT c.*, few.relates_to_id, few.relation_type
			FROM few
			CROSS JOIN LATERAL (
				SELECT ` + keyColumns + ` FROM events e
				WHERE e.event_id = few.event_id AND e.room_id = $1 AND e.rejection_reason IS NULL AND ` + l.children + `
				OFFSET 0
			) c
			WHERE few.relation_type = ANY (ARRAY['` + referenceRelation + `', '` + replaceRelation + `', '` + threadRelation + `'])
			  AND (SELECT count(*) FROM few) < ` + maxRelations + `)`
}

// child is the SQL of the columns that only the rows of children use.
func (l loading) child() string {
	return `e.parent, e.relation,
			CASE WHEN e.parent IS NOT NULL THEN coalesce(j.size, 0)::bigint + coalesce(octet_length(d.json), 0)::bigint ELSE 0 END, ` + l.ignored
}

// relatedWithChildren is the SQL of what relates to a row: to an event of the page, as
// relatedOnPage, and to a reply in a thread.
var relatedWithChildren = `CASE WHEN e.relation = '` + threadRelation + `' THEN ` + related("e.event_id") + `
			WHEN e.parent IS NULL THEN ` + relatedOnPage + ` ELSE 0 END`

// Children are the events that relate to the events of a page, without their JSON.
type Children struct {
	of      map[kinship][]*child
	byID    map[string]*child
	parents map[string]author

	// others says that a child is a state event or a redaction. This type does not have all
	// that a page shows of those.
	others bool
}

// A kinship is a parent and the type of a relation.
type kinship struct{ parent, relation string }

// An author is who has sent an event, and of which type it is.
type author struct{ sender, eventType string }

// A child is an event that relates to another one.
type child struct {
	Event

	// placed and dated say that its place in the stream and its time are known.
	placed, dated bool

	// there says that it has JSON, and fits that the JSON has the room's format.
	there, fits bool

	// ignored says that its sender is ignored.
	ignored bool

	// size is the length of its JSON and of its redaction's JSON, in bytes.
	size    int64
	version rowcache.Version
}

// newChildren returns Children without an event.
func newChildren() *Children {
	return &Children{of: map[kinship][]*child{}, byID: map[string]*child{}, parents: map[string]author{}}
}

// add adds the child in a row.
func (c *Children) add(row *pageRow) {
	if row.StateKey != nil || row.Type == "m.room.redaction" {
		c.others = true
		return
	}
	if row.dropped {
		return
	}
	row.place()
	added := &child{
		Event: row.Event, placed: row.stream != nil, dated: row.origin != nil,
		there: row.there, fits: formatFits(row.RoomVersion, row.format), ignored: row.ignored,
		size: row.size, version: row.version.version(),
	}
	key := kinship{*row.parent, *row.relation}
	c.of[key] = append(c.of[key], added)
	c.byID[row.ID] = added
}

// complete notes the authors of the events that have edits, and returns the children of the
// page. It returns nil if statements of their own must read the children.
func (c *Children) complete(events []Event) *Children {
	if c == nil || c.others {
		return nil
	}
	for i := range events {
		event := &events[i]
		if event.Related.Many {
			return nil
		}
		if event.Related.Edited {
			c.parents[event.ID] = author{event.Sender, event.Type}
		}
	}
	return c
}

// outlines returns the outlines of the events that are children, as [Snapshot.OutlinesOf]
// does, and the ids of the events that are not.
func (c *Children) outlines(ids []string) (outlines []Event, unknown []string) {
	if c == nil {
		return nil, ids
	}
	for _, id := range ids {
		found, known := c.byID[id]
		switch {
		case !known:
			unknown = append(unknown, id)
		case found.there && found.fits && found.placed:
			event := found.Event
			event.JSON, event.Prepared, event.Redaction = []byte(`{}`), nil, nil
			outlines = append(outlines, event)
		}
	}
	return outlines, unknown
}

// Facts returns the state groups and the senders of the children, for [VisibilityQuery].
func (c *Children) Facts() (groups []int64, senders []string) {
	if c == nil {
		return nil, nil
	}
	for _, child := range c.byID {
		senders = append(senders, child.Sender)
		if child.StateGroup != nil && !child.Outlier {
			groups = append(groups, *child.StateGroup)
		}
	}
	return groups, senders
}

// A bundling finds bundles among the children of a page.
type bundling struct {
	*Children
	query  BundleQuery
	found  *Bundles
	chosen []*child // whose JSON is shown
}

// choose adds threads, references and edits to the bundles, and notes whose JSON is needed.
func (b *bundling) choose() {
	within := b.within()
	for _, root := range b.query.Roots {
		thread, latest := b.thread(root)
		if latest != nil && latest.there && within(root, latest) {
			b.found.Threads[root] = thread
		}
	}
	for _, parent := range b.query.Parents {
		if ids := b.references(parent); len(ids) > 0 {
			b.found.References[parent] = ids
		}
	}
	within = b.within()
	for _, original := range b.query.Originals {
		if edit := b.edit(original); edit != nil && edit.there && within(original, edit) {
			b.found.Edits[original] = edit.Event
		}
	}
}

// within returns a function that chooses children until their JSON has reached the bound,
// and notes the ids of the others as cut.
func (b *bundling) within() func(id string, chosen *child) bool {
	read := int64(0)
	return func(id string, chosen *child) bool {
		if read >= int64(b.query.Bytes) {
			b.found.Cut[id] = true
			return false
		}
		read += chosen.size
		b.chosen = append(b.chosen, chosen)
		return true
	}
}

// thread returns the thread of a root, and its last reply, nil if it has no reply that
// counts.
func (b *bundling) thread(root string) (thread Thread, latest *child) {
	for _, reply := range b.of[kinship{root, threadRelation}] {
		if !reply.placed {
			continue
		}
		thread.Participated = thread.Participated || reply.Sender != "" && reply.Sender == b.query.Reader
		if reply.ignored {
			continue
		}
		if thread.Count++; latest == nil || compareTimeline(latest, reply) < 0 {
			latest = reply
		}
	}
	return thread, latest
}

// references returns the ids of the events that refer to a parent.
func (b *bundling) references(parent string) []string {
	referring := slices.DeleteFunc(slices.Clone(b.of[kinship{parent, referenceRelation}]), func(c *child) bool { return c.ignored })
	slices.SortStableFunc(referring, compareTimeline)
	ids := make([]string, 0, len(referring))
	for _, c := range referring {
		ids = append(ids, c.ID)
	}
	return ids
}

// edit returns the last edit by the author of an event, nil if it has none.
func (b *bundling) edit(original string) (last *child) {
	author, known := b.parents[original]
	if !known || author.sender == "" {
		return nil
	}
	for _, edit := range b.of[kinship{original, replaceRelation}] {
		if edit.Sender == author.sender && edit.Type == author.eventType && (last == nil || compareDates(last, edit) < 0) {
			last = edit
		}
	}
	return last
}

// compareTimeline compares children by the order of the timeline. Those whose place in the
// stream is unknown come last at their depth.
func compareTimeline(a, b *child) int {
	return cmp.Or(cmp.Compare(a.Topological, b.Topological), -compareBool(a.placed, b.placed), cmp.Compare(a.Stream, b.Stream))
}

// compareDates compares children by their times. Those whose time is unknown come first.
func compareDates(a, b *child) int {
	return cmp.Or(compareBool(a.dated, b.dated), cmp.Compare(a.OriginTS, b.OriginTS), cmp.Compare(a.ID, b.ID))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// queueChildren asks for the JSON of the chosen children that the cache does not have, and
// for the redactions of those that are redacted.
func (s *Snapshot) queueChildren(batch *pgx.Batch, b *bundling) {
	texts := newTexts(s)
	var redacted []string
	for _, c := range b.chosen {
		if c.RedactedBy != nil {
			redacted = append(redacted, c.ID)
		} else {
			texts.add(&c.Event, c.version)
		}
	}
	texts.queue(batch)
	if redacted = postgres.OnlyStorable(redacted); len(redacted) == 0 {
		return
	}
	batch.Queue(s.bans.eventsSQL(), redacted, b.query.Room).Query(func(rows pgx.Rows) error {
		events, err := eventsOf(rows)
		for id, event := range events {
			c := &b.byID[id].Event
			c.JSON, c.InternalMetadata, c.Redaction, c.RedactionMetadata = event.JSON, event.InternalMetadata, event.Redaction, event.RedactionMetadata
		}
		return err
	})
}

// finish puts the JSON that was read into the bundles.
func (b *bundling) finish() {
	if b.Children == nil {
		return
	}
	for root, thread := range b.found.Threads {
		_, latest := b.thread(root)
		thread.Latest = latest.Event
		b.found.Threads[root] = thread
	}
	for original, edit := range b.found.Edits {
		b.found.Edits[original] = b.byID[edit.ID].Event
	}
}
