package messages

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// A Format writes events for clients.
type Format struct {
	// Room is the id of the events' room.
	Room string

	// Reader is the client's user. Defaults to the zero Reader, who has sent no event
	// and is not an admin.
	Reader Reader

	// Raw writes events as servers get them. Defaults to false, which writes them as
	// the first version of the client API did, without the fields for servers.
	Raw bool

	// StrippedState keeps the state of the room that an invitation or a knock was sent
	// with. Defaults to false, which leaves it out.
	StrippedState bool

	// Now is the time from which ages are computed.
	Now time.Time

	// anonymous leaves out what only the event's sender or a server admin may know.
	anonymous bool

	metadata matrix.Object // memory that is reused for each event
}

// Append appends an event to dst as a JSON object, redacted if it has been. Previous is
// the event that [ReplacedState] names, nil if it is not known. If the event cannot be
// read, Append returns dst and false.
//
// The values of the event's fields are copied as they are. They are only known to be
// JSON.
func (f Format) Append(dst []byte, event, previous *timeline.Event) ([]byte, bool) {
	e, _, ok := read(event, nil)
	if !ok {
		return dst, false
	}
	with := extras{}
	if previous != nil {
		with.previous, _, _ = read(previous, nil)
	}
	return f.append(dst, &e, &with), true
}

// ReplacedState returns the id of the state event that a state event replaced, "" if
// there was none or it is not known. It is also "" for an outlier, such as a history
// purge leaves.
func ReplacedState(event *timeline.Event) string {
	e, _, ok := read(event, nil)
	if !ok {
		return ""
	}
	return e.replacedState()
}

// Content returns the content of an event, redacted if the event has been. It is nil if
// the event cannot be read or has no content.
func Content(event *timeline.Event) json.RawMessage {
	e, _, ok := read(event, nil)
	if !ok {
		return nil
	}
	return e.content()
}

// A readEvent is an event whose JSON is an object that has been split into fields.
type readEvent struct {
	*timeline.Event
	version  matrix.RoomVersion
	fields   matrix.Object
	unsigned matrix.Object

	// redacted says that the event is shown redacted. Erased says that the reason is
	// that its sender was erased.
	redacted, erased bool
}

// read reads an event. It appends the fields to buf, which it returns. It reports false
// if the event's JSON is not an object.
func read(event *timeline.Event, buf matrix.Object) (readEvent, matrix.Object, bool) {
	e := readEvent{Event: event, redacted: event.RedactedBy != nil}
	if event.RoomVersion != nil {
		e.version = matrix.RoomVersion(*event.RoomVersion)
	}
	first := len(buf)
	buf, ok := matrix.SplitObject(buf, event.JSON)
	if !ok {
		return readEvent{}, buf, false
	}
	e.fields = slices.Clip(buf[first:])
	first = len(buf)
	if buf, ok = matrix.SplitObject(buf, e.fields.Get("unsigned")); ok {
		e.unsigned = slices.Clip(buf[first:])
	}
	return e, buf, true
}

// isWhole reports whether the event has the fields that every event has. A homeserver
// cannot read other events, which only a fault or a hostile server leaves in a database.
func (e *readEvent) isWhole() bool {
	content := e.fields.Get("content")
	_, hasTime := matrix.Integer(e.fields.Get("origin_server_ts"))
	_, hasDepth := matrix.Integer(e.fields.Get("depth"))
	key := e.fields.Get("state_key")
	return hasTime && hasDepth && len(content) > 0 && content[0] == '{' &&
		isString(e.fields.Get("type")) && isString(e.fields.Get("sender")) && (key == nil || isString(key))
}

func (e *readEvent) replacedState() string {
	// Most events have none, so this is checked first.
	value := e.unsigned.Get("replaces_state")
	if value == nil || e.Outlier || !e.isState() {
		return ""
	}
	id, _ := matrix.Text(value)
	return id
}

func (e *readEvent) isState() bool { return e.fields.Get("state_key") != nil }

// content returns the event's content, redacted if the event is.
func (e *readEvent) content() json.RawMessage {
	content := e.fields.Get("content")
	if !e.redacted {
		return content
	}
	kind, _ := matrix.Text(e.fields.Get("type"))
	return matrix.AppendRedactedContent(nil, e.version, kind, content)
}

// target returns the JSON of the event id that a redaction redacts, and the fields of the
// content. The JSON is nil if it is not known or the event is not a redaction. Since room
// version 11 it is in the content.
func (e *readEvent) target(content []byte) (target json.RawMessage, fields matrix.Object) {
	if !matrix.Says(e.fields.Get("type"), "m.room.redaction") {
		return nil, nil
	}
	fields, ok := matrix.SplitObject(nil, content)
	switch {
	case !ok:
		return nil, nil
	case e.version.RedactsInContent():
		return fields.Get("redacts"), fields
	case e.redacted:
		return nil, nil // in older versions a redaction removes it
	default:
		return e.fields.Get("redacts"), fields
	}
}

// extras are the fields that an event is shown with but does not have itself.
type extras struct {
	// previous is the state event that the event replaced. Its fields are nil if it is
	// not known.
	previous readEvent

	// membership is the reader's membership at the event, "" to leave it out.
	membership string

	// relations are the bundled aggregations, a JSON object. They are nil if there are
	// no aggregations.
	relations []byte
}

// isForServersOnly reports whether only servers need the key of an event.
func isForServersOnly(key []byte) bool {
	switch string(key) {
	case "auth_events", "prev_events", "hashes", "signatures", "depth", "origin", "prev_state":
		return true
	default:
		return false
	}
}

// append appends the event to dst.
func (f *Format) append(dst []byte, e *readEvent, with *extras) []byte {
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
		for i, copied := range w.topLevel {
			if copied.to > 0 {
				dst = append(append(append(dst, `,"`...), topLevelKeys[i]...), `":`...)
				dst = append(dst, dst[copied.from:copied.to]...)
			}
		}
	}
	content := e.content()
	target, contentFields := e.target(content)
	if content != nil {
		dst = append(dst, `,"content":`...)
		if target == nil {
			dst = append(dst, content...)
		} else {
			dst = appendTargeted(dst, contentFields, target)
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
			if !f.Raw && (isForServersOnly(field.Name) || w.isTopLevel(field.Name)) {
				continue
			}
		}
		dst = append(append(append(append(dst, ','), field.Key...), ':'), field.Value...)
	}
	return append(dst, '}')
}

// appendTargeted appends a redaction's content with its target.
func appendTargeted(dst []byte, content matrix.Object, target []byte) []byte {
	dst = append(append(dst, `{"redacts":`...), target...)
	for i := range content {
		if field := &content[i]; string(field.Name) != "redacts" {
			dst = append(append(append(append(dst, ','), field.Key...), ':'), field.Value...)
		}
	}
	return append(dst, '}')
}

// writeUnsigned writes the fields of unsigned. Of two fields with the same key only the
// first is written.
func (f *Format) writeUnsigned(w *writer, e *readEvent, with *extras) {
	if since, ok := matrix.Integer(e.unsigned.Get("age_ts")); ok {
		w.key("age")
		w.dst = strconv.AppendInt(w.dst, f.Now.UnixMilli()-since, 10)
		w.end()
	}
	f.writePrevious(w, e, &with.previous)
	if e.RedactedBy != nil {
		w.text("redacted_by", *e.RedactedBy)
		f.writeRedactedBecause(w, e)
	}
	f.writeMetadata(w, e)
	if with.membership != "" {
		w.text("membership", with.membership)
	}
	if with.relations != nil {
		w.json("m.relations", with.relations)
	}
	for i := range e.unsigned {
		if field := &e.unsigned[i]; e.passes(field) || f.StrippedState && isStrippedState(field) {
			w.field(field)
		}
	}
}

// passes reports whether a stored field of unsigned is shown as it is. Signatures do not
// cover unsigned, so another server can write into it what only this server may say: that
// the event is redacted, has a thread, or was sent by some transaction. Old homeservers
// stored all of that. A redacted event keeps less.
func (e *readEvent) passes(field *matrix.Field) bool {
	switch string(field.Name) {
	case "replaces_state":
		return isString(field.Value)
	case "prev_content":
		return !e.redacted
	case "prev_sender":
		return !e.redacted && isString(field.Value)
	default:
		return false
	}
}

// isStrippedState reports whether a stored field of unsigned is the state of the room that
// an invitation or a knock was sent with.
func isStrippedState(field *matrix.Field) bool {
	switch string(field.Name) {
	case "invite_room_state", "knock_room_state":
		return len(field.Value) > 0 && field.Value[0] == '['
	default:
		return false
	}
}

// writePrevious writes the state that the event replaced. It is not shown for an event
// of an erased user.
func (f *Format) writePrevious(w *writer, e, previous *readEvent) {
	if previous.fields == nil || e.erased {
		return
	}
	content := previous.content()
	if len(content) == 0 || content[0] != '{' {
		return
	}
	w.json("prev_content", content)
	if sender := previous.fields.Get("sender"); sender != nil {
		w.json("prev_sender", sender)
	}
}

// writeRedactedBecause writes the event that redacts the event, if it can be read.
func (f *Format) writeRedactedBecause(w *writer, e *readEvent) {
	if e.Redaction == nil {
		return
	}
	redaction, _, ok := read(&timeline.Event{
		ID: *e.RedactedBy, RoomVersion: e.RoomVersion, JSON: e.Redaction, InternalMetadata: e.RedactionMetadata,
	}, nil)
	if !ok {
		return
	}
	redaction.redacted = e.RedactionRedacted
	w.key("redacted_because")
	w.dst = f.append(w.dst, &redaction, &extras{})
	w.end()
}

// writeMetadata writes the parts of the internal metadata that the reader may know. The
// event's sender may know the request that sent the event. A server admin may know why
// others do not see it.
func (f *Format) writeMetadata(w *writer, e *readEvent) {
	own := f.Reader.UserID != "" && matrix.Says(e.fields.Get("sender"), f.Reader.UserID)
	if len(e.InternalMetadata) <= len(`{}`) || f.anonymous || !own && !f.Reader.Admin {
		return
	}
	metadata, ok := matrix.SplitObject(f.metadata[:0], e.InternalMetadata)
	if f.metadata = metadata; !ok {
		return
	}
	if own {
		if id := metadata.Get("txn_id"); isString(id) && f.sameDevice(metadata) {
			w.json("transaction_id", id)
		}
		if id := metadata.Get("delay_id"); isString(id) {
			w.json("delay_id", id)
		}
	}
	if f.Reader.Admin {
		for _, flag := range [...]string{"soft_failed", "policy_server_spammy"} {
			if value := metadata.Get(flag); string(value) == "true" {
				w.json("io.element.synapse."+flag, value)
			}
		}
	}
}

// sameDevice reports whether the reader's device sent the event. If the event's device is
// not known, the access tokens are compared. Guests and application services have only
// one device.
func (f *Format) sameDevice(metadata matrix.Object) bool {
	if device := metadata.Get("device_id"); device != nil && string(device) != "null" {
		return f.Reader.DeviceID != "" && matrix.Says(device, f.Reader.DeviceID)
	}
	token, ok := matrix.Integer(metadata.Get("token_id"))
	return ok && token != 0 && token == f.Reader.TokenID || f.Reader.Guest || f.Reader.AppService
}

// topLevelKeys are the keys of unsigned that old clients expect at the top level of the
// event, too.
var topLevelKeys = [...]string{"age", "redacted_because", "replaces_state", "prev_content"}

// A span is a part of the written text. Its end is 0 only if there is no span.
type span struct{ from, to int }

// A writer writes the fields of an object. It writes no key twice.
type writer struct {
	dst      []byte
	written  [12]string // at least as many as writeUnsigned writes itself
	count    int
	from     int
	topLevel [len(topLevelKeys)]span
}

// key begins a field. The caller appends its value to dst and calls end.
func (w *writer) key(name string) {
	w.written[w.count] = name
	w.count++
	w.comma()
	w.dst = append(append(append(w.dst, '"'), name...), `":`...)
	w.from = len(w.dst)
}

// end ends the field that key began.
func (w *writer) end() { w.note(w.written[w.count-1]) }

func (w *writer) note(name string) {
	for i := range topLevelKeys {
		if topLevelKeys[i] == name {
			w.topLevel[i] = span{w.from, len(w.dst)}
		}
	}
}

// json writes a field whose value is JSON.
func (w *writer) json(name string, value []byte) {
	w.key(name)
	w.dst = append(w.dst, value...)
	w.end()
}

// text writes a field that is a string.
func (w *writer) text(name, value string) {
	w.key(name)
	w.dst = appendText(w.dst, value)
	w.end()
}

func (w *writer) comma() {
	if w.dst[len(w.dst)-1] != '{' { // not at the beginning of the object
		w.dst = append(w.dst, ',')
	}
}

// field writes a field of another object, unless its key is already written.
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

// isTopLevel reports whether a key of unsigned is also written at the top level.
func (w *writer) isTopLevel(key []byte) bool {
	for i, copied := range w.topLevel {
		if copied.to > 0 && string(key) == topLevelKeys[i] {
			return true
		}
	}
	return false
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
