package messages

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// A Format says how events are written for clients.
type Format struct {
	// Room is the room that the events are of.
	Room string

	// Reader is who gets them. Defaults to the zero Reader, who has sent nothing
	// and administers nothing.
	Reader Reader

	// Raw gives events as servers get them. Defaults to false: as the first
	// clients' API did, without what only servers need.
	Raw bool

	// Now is what ages are reckoned by.
	Now time.Time

	space matrix.Object // for metadata, which is read one after the other
}

// Append appends an event to dst as a JSON object, redacted if it is to be, and
// with what it took the place of, by [ReplacedState]; nil if that is not there.
// If the event cannot be read it returns dst and false.
//
// Values are passed on as they are spelled. No more is promised of them than
// that they are JSON.
func (f Format) Append(dst []byte, event, previous *timeline.Event) ([]byte, bool) {
	e, _, ok := read(event, nil)
	if !ok {
		return dst, false
	}
	with := company{}
	if previous != nil {
		with.previous, _, _ = read(previous, nil)
	}
	return f.append(dst, &e, &with), true
}

// ReplacedState is the id of the state event that a state event took the place
// of, "" if there was none or nobody knows. An event outside the timeline, such
// as a history purge leaves, is not shown with what it replaced.
func ReplacedState(event *timeline.Event) string {
	e, _, ok := read(event, nil)
	if !ok {
		return ""
	}
	return e.replacedState()
}

// Content returns the content of an event, redacted if it is to be. It is nil if
// the event cannot be read or has none.
func Content(event *timeline.Event) json.RawMessage {
	e, _, ok := read(event, nil)
	if !ok {
		return nil
	}
	return e.content()
}

// A readEvent is an event whose JSON is an object, and split.
type readEvent struct {
	*timeline.Event
	version  matrix.RoomVersion
	fields   matrix.Object
	unsigned matrix.Object

	// redacted says that only what a redaction leaves is shown. It is erased if
	// it is so because its sender is.
	redacted, erased bool
}

// read reads an event. Its fields are put into space, which is returned with
// them. It is false if the event's JSON is no object.
func read(event *timeline.Event, space matrix.Object) (readEvent, matrix.Object, bool) {
	e := readEvent{Event: event, redacted: event.RedactedBy != nil}
	if event.RoomVersion != nil {
		e.version = matrix.RoomVersion(*event.RoomVersion)
	}
	first := len(space)
	space, ok := matrix.SplitObject(space, event.JSON)
	if !ok {
		return readEvent{}, space, false
	}
	e.fields = slices.Clip(space[first:])
	first = len(space)
	if space, ok = matrix.SplitObject(space, e.fields.Get("unsigned")); ok {
		e.unsigned = slices.Clip(space[first:])
	}
	return e, space, true
}

func (e *readEvent) replacedState() string {
	// The answer is nearly always that there is none.
	spelled := e.unsigned.Get("replaces_state")
	if spelled == nil || e.Outlier || !e.isState() {
		return ""
	}
	id, _ := matrix.Text(spelled)
	return id
}

func (e *readEvent) isState() bool { return e.fields.Get("state_key") != nil }

// content is the event's content, redacted if it is to be.
func (e *readEvent) content() json.RawMessage {
	content := e.fields.Get("content")
	if !e.redacted {
		return content
	}
	kind, _ := matrix.Text(e.fields.Get("type"))
	return matrix.AppendRedactedContent(nil, e.version, kind, content)
}

// target is what a redaction redacts, as it is spelled; nil if nobody knows, or
// the event is no redaction. Since version 11 the content says it.
func (e *readEvent) target(content []byte) (target json.RawMessage, of matrix.Object) {
	if !matrix.Says(e.fields.Get("type"), "m.room.redaction") {
		return nil, nil
	}
	of, ok := matrix.SplitObject(nil, content)
	switch {
	case !ok:
		return nil, nil
	case e.version.RedactsInContent():
		return of.Get("redacts"), of
	case e.redacted:
		return nil, nil // older redactions leave nothing of it
	default:
		return e.fields.Get("redacts"), of
	}
}

// A company is what an event is shown with that is not its own.
type company struct {
	// previous is the state event that it took the place of, its fields nil if
	// that is not there.
	previous readEvent

	// membership is the reader's at the event, "" if it is not to be told.
	membership string

	// relations are what relates to it, a JSON object; nil if nothing does.
	relations []byte
}

// notForClients reports whether only servers need a key of an event.
func notForClients(key []byte) bool {
	switch string(key) {
	case "auth_events", "prev_events", "hashes", "signatures", "depth", "origin", "prev_state":
		return true
	default:
		return false
	}
}

// append appends the event to dst.
func (f *Format) append(dst []byte, e *readEvent, with *company) []byte {
	w := writer{dst: append(dst, `{"unsigned":{`...)}
	f.writeUnsigned(&w, e, with)
	dst = append(w.dst, `},"event_id":`...)
	dst = appendText(dst, e.ID)
	dst = append(dst, `,"room_id":`...)
	dst = appendText(dst, f.Room)
	sender := e.fields.Get("sender")
	if !f.Raw {
		if sender != nil {
			dst = append(append(dst, `,"user_id":`...), sender...)
		}
		for i, on := range w.onTop {
			if on.to > 0 {
				dst = append(append(append(dst, `,"`...), alsoOnTop[i]...), `":`...)
				dst = append(dst, dst[on.from:on.to]...)
			}
		}
	}
	content := e.content()
	target, of := e.target(content)
	if content != nil {
		dst = append(dst, `,"content":`...)
		if target == nil {
			dst = append(dst, content...)
		} else {
			dst = appendTargeted(dst, of, target)
		}
	}
	if target != nil {
		dst = append(append(dst, `,"redacts":`...), target...)
	}
	for i := range e.fields {
		field := &e.fields[i]
		if e.redacted && !matrix.RedactionKeeps(e.version, field.Name) {
			continue
		}
		switch string(field.Name) {
		case "unsigned", "event_id", "room_id", "content":
			continue
		case "redacts":
			if target != nil {
				continue
			}
		case "user_id":
			if !f.Raw && sender != nil {
				continue
			}
		default:
			if !f.Raw && (notForClients(field.Name) || w.isOnTop(field.Name)) {
				continue
			}
		}
		dst = append(append(append(append(dst, ','), field.Key...), ':'), field.Value...)
	}
	return append(dst, '}')
}

// appendTargeted appends a redaction's content with its target in it.
func appendTargeted(dst []byte, content matrix.Object, target []byte) []byte {
	dst = append(append(dst, `{"redacts":`...), target...)
	for i := range content {
		if field := &content[i]; string(field.Name) != "redacts" {
			dst = append(append(append(append(dst, ','), field.Key...), ':'), field.Value...)
		}
	}
	return append(dst, '}')
}

// writeUnsigned writes what the event's server says about it. What is written
// first counts.
func (f *Format) writeUnsigned(w *writer, e *readEvent, with *company) {
	if since, ok := integer(e.unsigned.Get("age_ts")); ok {
		w.key("age")
		w.dst = strconv.AppendInt(w.dst, f.Now.UnixMilli()-since, 10)
		w.end()
	}
	f.writePrevious(w, e, &with.previous)
	if e.RedactedBy != nil {
		w.key("redacted_by")
		w.dst = appendText(w.dst, *e.RedactedBy)
		w.end()
		f.writeBecause(w, e)
	}
	f.writeMetadata(w, e)
	if with.membership != "" {
		w.key("membership")
		w.dst = appendText(w.dst, with.membership)
		w.end()
	}
	if with.relations != nil {
		w.key("m.relations")
		w.dst = append(w.dst, with.relations...)
		w.end()
	}
	for i := range e.unsigned {
		field := &e.unsigned[i]
		switch string(field.Name) {
		case "age_ts", "invite_room_state", "knock_room_state":
			continue
		case "replaces_state":
		default:
			if e.redacted {
				continue
			}
		}
		w.field(field)
	}
}

// writePrevious writes what the event took the place of. What an erased user had
// said before is not shown.
func (f *Format) writePrevious(w *writer, e, previous *readEvent) {
	if previous.fields == nil || e.erased {
		return
	}
	content := previous.content()
	if len(content) == 0 || content[0] != '{' {
		return
	}
	w.key("prev_content")
	w.dst = append(w.dst, content...)
	w.end()
	if sender := previous.fields.Get("sender"); sender != nil {
		w.key("prev_sender")
		w.dst = append(w.dst, sender...)
		w.end()
	}
}

// writeBecause writes the event that redacts the event, if that can be read.
func (f *Format) writeBecause(w *writer, e *readEvent) {
	if e.Redaction == nil {
		return
	}
	redaction, _, ok := read(&timeline.Event{
		ID: *e.RedactedBy, RoomVersion: e.RoomVersion, JSON: e.Redaction, InternalMetadata: e.RedactionMetadata,
	}, nil)
	if !ok {
		return
	}
	w.key("redacted_because")
	w.dst = f.append(w.dst, &redaction, &company{})
	w.end()
}

// writeMetadata writes what the homeserver keeps about the event and the reader
// may know: who sent it, by which request it was sent; a server admin, why others
// do not see it.
func (f *Format) writeMetadata(w *writer, e *readEvent) {
	own := f.Reader.UserID != "" && matrix.Says(e.fields.Get("sender"), f.Reader.UserID)
	if len(e.InternalMetadata) <= len(`{}`) || !own && !f.Reader.Admin {
		return
	}
	metadata, ok := matrix.SplitObject(f.space[:0], e.InternalMetadata)
	if f.space = metadata; !ok {
		return
	}
	if own {
		if id := metadata.Get("txn_id"); isString(id) && f.sameDevice(metadata) {
			w.key("transaction_id")
			w.dst = append(w.dst, id...)
			w.end()
		}
		if id := metadata.Get("delay_id"); isString(id) {
			w.key("delay_id")
			w.dst = append(w.dst, id...)
			w.end()
		}
	}
	if f.Reader.Admin {
		for _, flag := range [...]string{"soft_failed", "policy_server_spammy"} {
			if string(metadata.Get(flag)) == "true" {
				w.prefixed("io.element.synapse.", flag)
			}
		}
	}
}

// sameDevice reports whether the event was sent by the device that the reader
// reads with. Where no device is known the access token says so; guests and app
// services have but one.
func (f *Format) sameDevice(metadata matrix.Object) bool {
	if device := metadata.Get("device_id"); device != nil && string(device) != "null" {
		return f.Reader.DeviceID != "" && matrix.Says(device, f.Reader.DeviceID)
	}
	token, ok := integer(metadata.Get("token_id"))
	return ok && token != 0 && token == f.Reader.TokenID || f.Reader.Guest || f.Reader.AppService
}

// alsoOnTop are the keys of unsigned that old clients look for in the event.
var alsoOnTop = [...]string{"age", "redacted_because", "replaces_state", "prev_content"}

// A span is a part of a text. Its end is never 0.
type span struct{ from, to int }

// A writer writes the fields of an object, none of them twice.
type writer struct {
	dst     []byte
	written [12]string // as many as writeUnsigned writes by itself, and more
	count   int
	from    int
	onTop   [len(alsoOnTop)]span
}

// key begins a field, whose value is then appended to dst.
func (w *writer) key(name string) {
	w.written[w.count] = name
	w.count++
	w.comma()
	w.dst = append(append(append(w.dst, '"'), name...), `":`...)
	w.from = len(w.dst)
}

// end ends the field that was begun last.
func (w *writer) end() { w.note(w.written[w.count-1]) }

func (w *writer) note(name string) {
	for i := range alsoOnTop {
		if alsoOnTop[i] == name {
			w.onTop[i] = span{w.from, len(w.dst)}
		}
	}
}

// prefixed writes a field that is true.
func (w *writer) prefixed(prefix, name string) {
	w.key(prefix + name)
	w.dst = append(w.dst, "true"...)
	w.end()
}

func (w *writer) comma() {
	if w.dst[len(w.dst)-1] != '{' { // the end of a value, or the object's begin
		w.dst = append(w.dst, ',')
	}
}

// field writes a field of another object, unless that is there already.
func (w *writer) field(field *matrix.Field) {
	for _, name := range w.written[:w.count] {
		if string(field.Name) == name {
			return
		}
	}
	w.comma()
	w.dst = append(append(w.dst, field.Key...), ':')
	w.from = len(w.dst)
	w.dst = append(w.dst, field.Value...)
	w.note(string(field.Name))
}

// isOnTop reports whether a key of unsigned is also to be in the event.
func (w *writer) isOnTop(key []byte) bool {
	for i, on := range w.onTop {
		if on.to > 0 && string(key) == alsoOnTop[i] {
			return true
		}
	}
	return false
}

// integer returns a JSON integer, the nearest int64 if it does not fit in one.
func integer(value []byte) (n int64, ok bool) {
	if len(value) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

func isString(value []byte) bool { return len(value) > 0 && value[0] == '"' }

// appendText appends a text as a JSON string.
func appendText(dst []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			quoted, _ := json.Marshal(text) // never fails
			return append(dst, quoted...)
		}
	}
	return append(append(append(dst, '"'), text...), '"')
}
