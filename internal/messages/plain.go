package messages

import (
	"bytes"
	"strconv"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// A plain is an event written for clients, without what depends on its page: the room,
// the age and the reader's membership. It is made only for an event of which nothing else
// can depend on that, unless the event is redacted, other events relate to it, or the
// reader may know something of its metadata.
type plain struct {
	version *string
	sender  string

	// forSender and forAdmins say that the metadata may have something for them.
	forSender, forAdmins bool

	hasAge bool
	sent   int64 // the time from which the age counts, in ms

	// id, user and rest are the parts of the written event.
	id, user, rest []byte
}

// prepare makes the plain of an event, nil if it has no such form, as [timeline.CacheOptions]
// wants it.
func prepare(event *timeline.Event) (prepared any, size int) {
	memory := scratches.Get().(*scratch)
	defer memory.release()
	e, fields, ok := read(&timeline.Event{ID: event.ID, RoomVersion: event.RoomVersion, JSON: event.JSON}, memory.fields[:0])
	if memory.fields = fields; !ok || !e.isWhole() {
		return nil, 0
	}
	for i := range e.unsigned {
		if e.passes(&e.unsigned[i]) {
			return nil, 0
		}
	}
	p := plain{version: event.RoomVersion}
	p.sender, _ = matrix.Text(e.fields.Get("sender"))
	p.forSender = mayHaveKey(event.InternalMetadata, "txn_id") || mayHaveKey(event.InternalMetadata, "delay_id")
	p.forAdmins = mayHaveKey(event.InternalMetadata, "soft_failed") || mayHaveKey(event.InternalMetadata, "policy_server_spammy")
	p.sent, p.hasAge = matrix.Integer(e.unsigned.Get("age_ts"))

	// It is written once for no room and with the age 0, and cut where those are.
	format := Format{Now: time.UnixMilli(p.sent), anonymous: true}
	memory.text = format.append(memory.text[:0], &e, &extras{})
	text := bytes.Clone(memory.text)
	rest := text
	next := func(part string) {
		if ok {
			rest, ok = bytes.CutPrefix(rest, []byte(part))
		}
	}
	next(`{"unsigned":{`)
	if p.hasAge {
		next(`"age":0`)
	}
	p.id = rest
	next(`},"event_id":` + string(appendText(nil, e.ID)) + `,"room_id":`)
	p.id = p.id[:len(p.id)-len(rest)]
	next(`""`)
	p.user = rest
	next(`,"user_id":` + string(e.fields.Get("sender")))
	p.user = p.user[:len(p.user)-len(rest)]
	if p.hasAge {
		next(`,"age":0`)
	}
	if p.rest = rest; !ok {
		return nil, 0
	}
	return &p, cap(text) + len(p.sender) + 160 // of the struct
}

// plainOf returns the plain that the event can be written from, nil if it has no such form.
func (f *Format) plainOf(event *shown) *plain {
	p, _ := event.Prepared.(*plain)
	if p == nil || f.Raw || event.erased || event.RedactedBy != nil || event.Related != (timeline.Related{}) {
		return nil
	}
	if a, b := p.version, event.RoomVersion; (a == nil) != (b == nil) || a != nil && *a != *b {
		return nil
	}
	if !f.anonymous && (p.forAdmins && f.Reader.Admin || p.forSender && p.sender == f.Reader.UserID) {
		return nil
	}
	return p
}

// appendPlain appends a plain to dst, as append does with the event.
func (f *Format) appendPlain(dst []byte, p *plain, membership string) []byte {
	age := f.Now.UnixMilli() - p.sent
	dst = append(dst, `{"unsigned":{`...)
	if p.hasAge {
		dst = strconv.AppendInt(append(dst, `"age":`...), age, 10)
	}
	if membership != "" {
		if p.hasAge {
			dst = append(dst, ',')
		}
		dst = appendText(append(dst, `"membership":`...), membership)
	}
	dst = append(dst, p.id...)
	dst = append(appendText(dst, f.Room), p.user...)
	if p.hasAge {
		dst = strconv.AppendInt(append(dst, `,"age":`...), age, 10)
	}
	return append(dst, p.rest...)
}
