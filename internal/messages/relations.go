package messages

import (
	"bytes"
	"context"
	"strconv"

	"lethe/internal/matrix"
	"lethe/internal/store"
)

// A relation is how an event says that it relates to another.
type relation int

const (
	noRelation relation = iota
	someRelation

	// closedRelation is that of an event to which nothing can relate in its turn:
	// an annotation or an edit.
	closedRelation
)

// relation is that of the event, as far as it is shown.
func (e *readEvent) relation() relation {
	if e.redacted {
		return noRelation // no redaction leaves any
	}
	// Most say nothing of it, and need not be looked at closer.
	said := e.fields.Get("content")
	if !bytes.Contains(said, []byte("m.relates_to")) && !bytes.Contains(said, []byte(`\u`)) {
		return noRelation
	}
	content, ok := matrix.SplitObject(nil, said)
	if !ok {
		return noRelation
	}
	relates, ok := matrix.SplitObject(nil, content.Get("m.relates_to"))
	kind := relates.Get("rel_type")
	if !ok || !isString(kind) || !isString(relates.Get("event_id")) {
		return noRelation
	}
	if matrix.Says(kind, "m.annotation") || matrix.Says(kind, "m.replace") {
		return closedRelation
	}
	return someRelation
}

// bundles are what relates to the events of a page.
type bundles struct {
	references map[string][]string
	edits      map[string]store.TimelineEvent
	threads    map[string]store.Thread
}

// readBundles reads what relates to the parents. Related says which of them
// anything relates to; without any, nothing is read.
func readBundles(ctx context.Context, snapshot *store.Snapshot, request *Request, parents []parent, related map[string]store.Related) (bundles, error) {
	if len(related) == 0 {
		return bundles{}, nil
	}
	// From one who reads all nothing is hidden.
	ignorer := request.Reader.UserID
	if request.All {
		ignorer = ""
	}
	var b bundles
	var roots, referenced, originals []string
	for _, p := range parents {
		of := related[p.ID]
		if of.Thread && p.root {
			roots = append(roots, p.ID)
		}
		if of.Referenced {
			referenced = append(referenced, p.ID)
		}
		if of.Edited && !p.redacted {
			originals = append(originals, p.ID)
		}
	}
	var err error
	if len(roots) > 0 {
		if b.threads, err = snapshot.Threads(ctx, request.Room, request.Reader.UserID, ignorer, roots); err != nil {
			return bundles{}, err
		}
	}
	for _, thread := range b.threads {
		// The latest reply is shown with what relates to it, but for threads.
		referenced = append(referenced, thread.Latest.ID)
		if thread.Latest.RedactedBy == nil {
			originals = append(originals, thread.Latest.ID)
		}
	}
	b.references, b.edits, err = snapshot.Bundled(ctx, request.Room, ignorer, referenced, originals)
	return b, err
}

// append appends what relates to an event to dst, as a JSON object; nothing if
// nothing does.
func (b *bundles) append(dst []byte, f *Format, e *readEvent) []byte {
	references := b.references[e.ID]
	edit, edited := b.edits[e.ID]
	thread, threaded := b.threads[e.ID]
	if len(references) == 0 && !edited && !threaded {
		return dst
	}
	begin := len(dst)
	dst = append(dst, '{')
	if len(references) > 0 {
		dst = append(dst, `"m.reference":{"chunk":[`...)
		for i, id := range references {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(append(dst, `{"event_id":`...), id), '}')
		}
		dst = append(dst, `]},`...)
	}
	if edited {
		if e, _, ok := read(&edit, nil); ok {
			dst = append(f.append(append(dst, `"m.replace":`...), &e, &company{}), ',')
		}
	}
	if threaded {
		dst = b.appendThread(dst, f, e, &thread)
	}
	if dst[len(dst)-1] == '{' {
		return dst[:begin]
	}
	dst[len(dst)-1] = '}' // the last comma
	return dst
}

// appendThread appends the field of a thread and a comma; nothing if its latest
// reply cannot be read.
func (b *bundles) appendThread(dst []byte, f *Format, root *readEvent, thread *store.Thread) []byte {
	latest, _, ok := read(&thread.Latest, nil)
	if !ok {
		return dst
	}
	own := bundles{references: b.references, edits: b.edits}
	dst = append(dst, `"m.thread":{"latest_event":`...)
	dst = f.append(dst, &latest, &company{relations: own.append(nil, f, &latest)})
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendInt(dst, thread.Count, 10)
	dst = append(dst, `,"current_user_participated":`...)
	participated := thread.Participated || matrix.Says(root.fields.Get("sender"), f.Reader.UserID)
	return append(strconv.AppendBool(dst, participated), `},`...)
}
