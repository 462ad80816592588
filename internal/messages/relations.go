package messages

import (
	"bytes"
	"context"
	"maps"
	"strconv"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// A relation is the kind of relation to another event that an event has in its content.
type relation int

const (
	noRelation relation = iota
	someRelation

	// closedRelation is the relation of an annotation or an edit. Relations to such an
	// event do not count.
	closedRelation
)

// relation returns the relation of the event, as its reader sees it.
func (e *readEvent) relation() relation {
	if e.redacted {
		return noRelation // a redaction removes it
	}
	// Most events have none, so this is checked first.
	raw := e.fields.Get("content")
	if !bytes.Contains(raw, []byte("m.relates_to")) && !bytes.Contains(raw, []byte(`\u`)) {
		return noRelation
	}
	content, ok := matrix.SplitObject(nil, raw)
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

// bundles are the bundled aggregations and the replaced state of a page's events.
type bundles struct{ timeline.Bundles }

// readBundles reads the bundles of the events.
func readBundles(ctx context.Context, snapshot *timeline.Snapshot, request *Request, events []readableEvent) (b bundles, err error) {
	asked := timeline.BundleQuery{Room: request.Room, Reader: request.Reader.UserID, Ignorer: request.Reader.UserID}
	if request.All {
		asked.Ignorer = "" // nothing is hidden
	}
	for i := range events {
		e := &events[i].readEvent
		if e.isState() {
			if id := e.replacedState(); id != "" {
				asked.Replaced = append(asked.Replaced, id)
			}
			continue
		}
		if e.Related == (timeline.Related{}) {
			continue
		}
		relation := e.relation()
		if relation == closedRelation {
			continue
		}
		if e.Related.Thread && relation == noRelation {
			asked.Roots = append(asked.Roots, e.ID)
		}
		if e.Related.Referenced {
			asked.Parents = append(asked.Parents, e.ID)
		}
		if e.Related.Edited && !e.redacted {
			asked.Originals = append(asked.Originals, e.ID)
		}
	}
	if b.Bundles, err = snapshot.Bundles(ctx, asked); err != nil {
		return b, err
	}
	// The latest reply of a thread is shown with its own aggregations, except threads.
	asked.Replaced, asked.Roots, asked.Parents, asked.Originals = nil, nil, nil, nil
	for _, thread := range b.Threads {
		if thread.Latest.Related.Referenced {
			asked.Parents = append(asked.Parents, thread.Latest.ID)
		}
		if thread.Latest.Related.Edited && thread.Latest.RedactedBy == nil {
			asked.Originals = append(asked.Originals, thread.Latest.ID)
		}
	}
	ofReplies, err := snapshot.Bundles(ctx, asked)
	maps.Copy(b.References, ofReplies.References)
	maps.Copy(b.Edits, ofReplies.Edits)
	return b, err
}

// append appends the aggregations of an event to dst, as a JSON object. It appends
// nothing if there are no aggregations.
func (b *bundles) append(dst []byte, f *Format, e *readEvent) []byte {
	references := b.References[e.ID]
	edit, edited := b.Edits[e.ID]
	thread, threaded := b.Threads[e.ID]
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
			dst = append(f.append(append(dst, `"m.replace":`...), &e, &extras{}), ',')
		}
	}
	if threaded {
		dst = b.appendThread(dst, f, e, &thread)
	}
	if dst[len(dst)-1] == '{' {
		return dst[:begin]
	}
	dst[len(dst)-1] = '}' // instead of the last comma
	return dst
}

// appendThread appends the field of a thread and a comma. It appends nothing if the
// latest reply cannot be read.
func (b *bundles) appendThread(dst []byte, f *Format, root *readEvent, thread *timeline.Thread) []byte {
	latest, _, ok := read(&thread.Latest, nil)
	if !ok {
		return dst
	}
	own := bundles{timeline.Bundles{References: b.References, Edits: b.Edits}}
	dst = append(dst, `"m.thread":{"latest_event":`...)
	dst = f.append(dst, &latest, &extras{relations: own.append(nil, f, &latest)})
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendInt(dst, thread.Count, 10)
	dst = append(dst, `,"current_user_participated":`...)
	participated := thread.Participated || matrix.Says(root.fields.Get("sender"), f.Reader.UserID)
	return append(strconv.AppendBool(dst, participated), `},`...)
}
