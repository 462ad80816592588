package messages

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"lethe/internal/store/timeline"
)

var (
	// ErrFilterJSON is returned for a filter that is no JSON.
	ErrFilterJSON = errors.New("the filter is not JSON")

	// ErrFilterObject is returned for a filter that is no object, or asks for more
	// than a filter may.
	ErrFilterObject = errors.New("the filter is not an object that can be used")
)

const (
	// maxFilter is how many bytes a filter may have.
	maxFilter = 64 << 10

	// maxFilterList is how many texts each list of a filter may have, and
	// maxPatterns how many of them may be patterns, which are tried one after the
	// other on every event that is passed on the way.
	maxFilterList = 1000
	maxPatterns   = 50
)

// A Filter says which events of a room are wanted. The zero Filter wants all.
//
// The database is asked for most of it. What depends on what an event says is
// judged when it has been read, and so is a list that is there but empty: pages
// have fewer events then, or none, and go on to the end of the timeline.
type Filter struct {
	events timeline.EventFilter

	// rooms, if it is not nil, are the only rooms of which events are wanted;
	// notRooms those of which none are.
	rooms, notRooms []string

	// nothing says that no event can pass.
	nothing bool

	// after says that there is something to judge after reading.
	after bool

	// never says that no event passes that was read.
	never bool

	// url, if it is not nil, says whether an event must have a URL.
	url *bool

	// labels, if it is not nil, are those of which an event must have one;
	// notLabels those of which it may have none.
	labels, notLabels []string

	// lazy asks for the members that a page's events are by; federation for events
	// as servers get them.
	lazy, federation bool
}

// ParseFilter parses a filter of the client-server API, of at most 64 KiB and 1000
// texts a list. Absent ones, as JSON has them (null, false, 0, "", [] and {}) and
// as a query has them (nothing at all), are the zero Filter. Keys that it does not
// know are ignored, and null is no value. A value of another type than it should
// have matches no event.
//
// Errors wrap [ErrFilterJSON] or [ErrFilterObject].
func ParseFilter(text []byte) (Filter, error) {
	text = bytes.Trim(text, " \t\r\n") // JSON knows no other space
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
		if !falsy(text) {
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

// falsy reports whether a JSON value that is no object stands for none.
func falsy(text []byte) bool {
	switch text[0] {
	case 'n', 'f':
		return true
	case '"':
		return len(text) == len(`""`)
	case '[':
		return len(bytes.TrimSpace(text[1:len(text)-1])) == 0
	case 't':
		return false
	default: // a number is zero if it has no other digit before its exponent
		mantissa, _, _ := bytes.Cut(bytes.ToLower(text), []byte("e"))
		return !bytes.ContainsAny(mantissa, "123456789")
	}
}

// A filterParser reads the keys of a filter.
type filterParser struct {
	fields map[string]json.RawMessage
	filter Filter
	err    error
}

func (p *filterParser) parse() {
	f := &p.filter
	f.events.Types, f.events.TypePatterns = p.patterns(p.wanted("types"))
	f.events.NotTypes, f.events.NotTypePatterns = p.patterns(p.list("not_types"))
	f.events.Senders, f.events.NotSenders = p.wanted("senders"), p.list("not_senders")
	f.rooms, f.notRooms = p.wanted("rooms"), p.list("not_rooms")
	f.events.RelatedBySenders = p.wanted("related_by_senders")
	f.events.RelatedByTypes = p.wanted("related_by_rel_types")
	f.events.RelationTypes = p.wanted("org.matrix.msc3874.rel_types")
	f.events.NotRelationTypes = p.list("org.matrix.msc3874.not_rel_types")
	f.labels, f.notLabels = p.wanted("org.matrix.labels"), p.list("org.matrix.not_labels")
	f.events.Labels = f.labels

	if url, given := p.fields["contains_url"]; given && !isNull(url) {
		if f.url = boolean(url); f.url == nil {
			f.nothing = true
		} else {
			f.events.ContainsURL = *f.url
		}
	}
	lazy := boolean(p.fields["lazy_load_members"])
	f.lazy = lazy != nil && *lazy
	format, ok := text(p.fields["event_format"])
	f.federation = ok && format == "federation"
	f.after = f.never || f.url != nil || f.labels != nil || len(f.notLabels) > 0
}

// list reads a list of texts, nil if there is none. What is no text, or no text that
// a database can hold, is as if it were not in the list.
func (p *filterParser) list(key string) []string {
	list, _, _ := p.texts(key)
	return list
}

// wanted is a list that events must be in. Nil says nothing: an empty one is not
// asked of the database.
func (p *filterParser) wanted(key string) []string {
	list, length, given := p.texts(key)
	switch {
	case !given:
		return nil
	case length == 0:
		p.filter.never = true
		return nil
	case len(list) == 0:
		p.filter.nothing = true
		return nil
	}
	return list
}

// texts reads the texts of a list, which has the given length, -1 if it is no list.
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

// patterns tells the texts that hold no * from those that do, which become patterns.
func (p *filterParser) patterns(texts []string) (exact, patterns []string) {
	for _, t := range texts {
		if !strings.Contains(t, "*") {
			exact = append(exact, t)
			continue
		}
		for strings.Contains(t, "**") { // which says no more than one, and costs more
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

// boolean reads a JSON boolean, nil if it is none.
func boolean(value json.RawMessage) *bool {
	switch string(value) {
	case "true":
		return new(true)
	case "false":
		return new(false)
	}
	return nil
}

// text reads a JSON string that a database can hold.
func text(value json.RawMessage) (text string, ok bool) {
	if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, &text) != nil {
		return "", false
	}
	return text, utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}

// excludes reports whether the database need not be asked for events of the room:
// none of them can pass.
func (f Filter) excludes(room string) bool {
	return f.nothing || slices.Contains(f.notRooms, room) || f.rooms != nil && !slices.Contains(f.rooms, room)
}

// passing returns those of the events that the filter wants. It judges what the
// database was not asked for.
func (f Filter) passing(events []timeline.Event) []timeline.Event {
	switch {
	case f.never:
		return nil
	case !f.after:
		return events
	}
	return slices.DeleteFunc(events, func(event timeline.Event) bool { return !f.passes(event) })
}

// passes judges an event by its content, which one that was redacted has lost.
func (f Filter) passes(event timeline.Event) bool {
	var content map[string]json.RawMessage
	if event.RedactedBy == nil {
		var body map[string]json.RawMessage
		if json.Unmarshal(event.JSON, &body) == nil {
			_ = json.Unmarshal(body["content"], &content) // one that is no object says nothing
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
	_ = json.Unmarshal(content["org.matrix.labels"], &elements) // what is no list has none
	has := func(labels []string) bool {
		return slices.ContainsFunc(elements, func(element json.RawMessage) bool {
			label, ok := text(element)
			return ok && slices.Contains(labels, label)
		})
	}
	return (f.labels == nil || has(f.labels)) && !has(f.notLabels)
}
