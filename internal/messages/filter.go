package messages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

var (
	// ErrFilterJSON is returned for a filter that is not JSON.
	ErrFilterJSON = errors.New("the filter is not JSON")

	// ErrFilterObject is returned for a filter that is not an object, or that exceeds a
	// maximum.
	ErrFilterObject = errors.New("the filter is not an object, or it is too large")
)

const (
	// maxFilter is the maximum length of a filter in bytes.
	maxFilter = 64 << 10

	// maxFilterList is the maximum number of strings in each list of a filter, and
	// maxPatterns the maximum number of patterns among them. Each event is compared
	// with one pattern after the other.
	maxFilterList = 100
	maxPatterns   = 50
)

// A Filter selects events of a room. The zero Filter selects all.
//
// The database applies most of it. Conditions on the content of an event are applied
// after the event has been read, and so is a list that is present but empty. Then pages
// have fewer events than the limit, or no events, and still continue to the end of the
// timeline.
type Filter struct {
	events timeline.EventFilter

	// rooms are the only rooms whose events pass, unless it is nil. Events of notRooms
	// do not pass.
	rooms, notRooms []string

	// matchesNothing says that no event can pass, so that the database need not be asked.
	matchesNothing bool

	// checksContent says that events must be checked after they have been read.
	checksContent bool

	// dropsAll says that all events are dropped after they have been read.
	dropsAll bool

	// url says whether an event must have a URL or must have no URL. It is nil if both
	// pass.
	url *bool

	// labels are the labels of which an event must have one, unless it is nil. An event
	// with one of notLabels does not pass.
	labels, notLabels []string

	// lazy asks for the memberships of the senders of a page's events. Federation asks
	// for events as servers get them.
	lazy, federation bool
}

// ParseFilter parses a filter of the client-server API. The filter has at most 64 KiB, and
// each of its lists at most 100 strings. An empty text and the empty values of JSON
// (null, false, 0, "", [] and {}) are the zero Filter. Unknown keys and keys with the
// value null are ignored. A value of the wrong type matches no event.
//
// Errors wrap [ErrFilterJSON] or [ErrFilterObject].
func ParseFilter(text []byte) (Filter, error) {
	text = bytes.Trim(text, " \t\r\n") // the white space of JSON
	switch {
	case len(text) == 0:
		return Filter{}, nil
	case len(text) > maxFilter:
		return Filter{}, fmt.Errorf("%d bytes: %w", len(text), ErrFilterObject)
	case !json.Valid(text):
		return Filter{}, ErrFilterJSON
	}
	var fields map[string]json.RawMessage
	if text[0] != '{' {
		if matrix.Truthy(text) {
			return Filter{}, ErrFilterObject
		}
		return Filter{}, nil
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return Filter{}, fmt.Errorf("%w: %w", ErrFilterObject, err)
	}
	p := filterParser{fields: fields}
	p.parse()
	return p.filter, p.err
}

// A filterParser reads the keys of a filter.
type filterParser struct {
	fields map[string]json.RawMessage
	filter Filter
	err    error
}

func (p *filterParser) parse() {
	f := &p.filter
	f.events.Types, f.events.TypePatterns = p.patterns(p.wantedList("types"))
	f.events.NotTypes, f.events.NotTypePatterns = p.patterns(p.list("not_types"))
	f.events.Senders, f.events.NotSenders = p.wantedList("senders"), p.list("not_senders")
	f.rooms, f.notRooms = p.wantedList("rooms"), p.list("not_rooms")
	f.events.RelatedBySenders = p.wantedUnlessEmpty("related_by_senders")
	f.events.RelatedByTypes = p.wantedUnlessEmpty("related_by_rel_types")
	f.events.RelationTypes = p.wantedList("org.matrix.msc3874.rel_types")
	f.events.NotRelationTypes = p.list("org.matrix.msc3874.not_rel_types")
	f.labels, f.notLabels = p.wantedList("org.matrix.labels"), p.list("org.matrix.not_labels")
	f.events.Labels = f.labels

	if url, given := p.fields["contains_url"]; given && !isNull(url) {
		if f.url = boolean(url); f.url == nil {
			f.matchesNothing = true
		} else {
			f.events.ContainsURL = *f.url
		}
	}
	lazy := boolean(p.fields["lazy_load_members"])
	f.lazy = lazy != nil && *lazy
	format, ok := text(p.fields["event_format"])
	f.federation = ok && format == "federation"
	f.checksContent = f.dropsAll || f.url != nil || f.labels != nil || len(f.notLabels) > 0
}

// list reads a list of strings, nil if the key is absent. It drops values that are not
// strings, and strings that the database cannot hold.
func (p *filterParser) list(key string) []string {
	list, _, _ := p.texts(key)
	return list
}

// wantedList reads a list that events must match, nil if there is no such condition for
// the database. An empty list drops all events after they have been read.
func (p *filterParser) wantedList(key string) []string {
	list, length, given := p.texts(key)
	switch {
	case !given:
		return nil
	case length == 0:
		p.filter.dropsAll = true
		return nil
	case len(list) == 0:
		p.filter.matchesNothing = true
		return nil
	}
	return list
}

// wantedUnlessEmpty is wantedList for a key whose empty list is no condition.
func (p *filterParser) wantedUnlessEmpty(key string) []string {
	if _, length, _ := p.texts(key); length == 0 {
		return nil
	}
	return p.wantedList(key)
}

// texts reads the strings of a list. Length is the number of the list's values, -1 if it
// is not a list.
func (p *filterParser) texts(key string) (texts []string, length int, given bool) {
	value, given := p.fields[key]
	if !given || isNull(value) {
		return nil, 0, false
	}
	var elements []json.RawMessage
	if json.Unmarshal(value, &elements) != nil {
		return nil, -1, true
	}
	if len(elements) > maxFilterList {
		p.err = fmt.Errorf("%d texts: %w", len(elements), ErrFilterObject)
		return nil, -1, true
	}
	for _, element := range elements {
		if t, ok := text(element); ok {
			texts = append(texts, t)
		}
	}
	return texts, len(elements), true
}

// patterns separates strings without a * from those with one, which become patterns.
func (p *filterParser) patterns(texts []string) (exact, patterns []string) {
	for _, t := range texts {
		if !strings.Contains(t, "*") {
			exact = append(exact, t)
			continue
		}
		for strings.Contains(t, "**") { // equivalent to one, but slower
			t = strings.ReplaceAll(t, "**", "*")
		}
		patterns = append(patterns, timeline.PatternOf(t))
	}
	if len(patterns) > maxPatterns {
		p.err = fmt.Errorf("%d patterns: %w", len(patterns), ErrFilterObject)
	}
	return exact, patterns
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }

// boolean reads a JSON boolean, nil if the value is not one.
func boolean(value json.RawMessage) *bool {
	switch string(value) {
	case "true":
		return new(true)
	case "false":
		return new(false)
	}
	return nil
}

// text reads a JSON string that the database can hold.
func text(value json.RawMessage) (text string, ok bool) {
	text, ok = matrix.Text(value)
	return text, ok && utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}

// Selects reports whether the database looks for the events that the filter selects, which
// may be far apart.
func (f Filter) Selects() bool { return f.events.Selects() }

// excludes reports whether no event of the room can pass, so that the database need not
// be asked.
func (f Filter) excludes(room string) bool {
	return f.matchesNothing || slices.Contains(f.notRooms, room) || f.rooms != nil && !slices.Contains(f.rooms, room)
}

// passing returns the events that pass the conditions that the database did not check.
func (f Filter) passing(events []timeline.Event) []timeline.Event {
	switch {
	case f.dropsAll:
		return nil
	case !f.checksContent:
		return events
	}
	return slices.DeleteFunc(events, func(event timeline.Event) bool { return !f.passes(event) })
}

// passes reports whether the content of an event passes. A redacted event has no content.
func (f Filter) passes(event timeline.Event) bool {
	var content map[string]json.RawMessage
	if event.RedactedBy == nil {
		var body map[string]json.RawMessage
		if json.Unmarshal(event.JSON, &body) == nil {
			_ = json.Unmarshal(body["content"], &content) // otherwise the content is empty
		}
	}
	if f.url != nil {
		url := content["url"]
		if *f.url != (len(url) > 0 && url[0] == '"') {
			return false
		}
	}
	if f.labels == nil && len(f.notLabels) == 0 {
		return true
	}
	var elements []json.RawMessage
	_ = json.Unmarshal(content["org.matrix.labels"], &elements) // otherwise there are no labels
	has := func(labels []string) bool {
		return slices.ContainsFunc(elements, func(element json.RawMessage) bool {
			label, ok := text(element)
			return ok && slices.Contains(labels, label)
		})
	}
	return (f.labels == nil || has(f.labels)) && !has(f.notLabels)
}
