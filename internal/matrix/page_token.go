package matrix

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrPageToken is returned for text that is no page token.
var ErrPageToken = errors.New("not a page token")

// maxPageToken is how many bytes a token's place and its rest may each have. A
// homeserver's own have about 50, and 20 more for each of its writers.
const maxPageToken = 4096

// ownRest is what follows the place in a token of ours: nine places in streams
// that say nothing of a room. Older homeservers refuse more of them, and newer
// ones add what is missing.
const ownRest = "_0_0_0_0_0_0_0_0_0"

// A PageToken is a place in the timeline of a room, as clients pass it around:
//
//   - t<topological>-<stream>, just after the event with these orderings: see
//     [Token].
//   - s<stream>, just after what had arrived when the stream was there.
//   - m<stream>~<writer>.<stream>~…, the same where several processes write the
//     stream: each of those named is at the place that follows it, and all
//     others are at the first.
//
// The rest of the token, from the first underscore on, are places in other
// streams. It is kept as it is. The zero PageToken is none, and is written "".
type PageToken struct {
	text    string // the whole token, as it was written
	place   int    // how long its first component is
	at      Token  // of a live token only Stream is set
	writers []WriterPosition
}

// A WriterPosition says how far a process had written the stream of events.
type WriterPosition struct {
	// Writer is the number that the homeserver gave the process.
	Writer int64

	// Stream is the stream ordering of its last event.
	Stream int64
}

// NewPageToken returns the historic token of a place: t<topological>-<stream>.
// Topological may not be negative.
func NewPageToken(at Token) PageToken { return historicPageToken(at, ownRest) }

// LivePageToken returns the live token of a place in the stream: s<stream>.
func LivePageToken(stream int64) PageToken {
	text := "s" + strconv.FormatInt(stream, 10)
	return PageToken{text: text + ownRest, place: len(text), at: Token{Stream: stream}}
}

// Moved returns the historic token of another place with the same rest.
func (t PageToken) Moved(to Token) PageToken { return historicPageToken(to, t.text[t.place:]) }

func historicPageToken(at Token, rest string) PageToken {
	text := make([]byte, 0, 64)
	text = append(text, 't')
	text = strconv.AppendInt(text, at.Topological, 10)
	text = append(text, '-')
	text = strconv.AppendInt(text, at.Stream, 10)
	place := len(text)
	return PageToken{text: string(append(text, rest...)), place: place, at: at}
}

// Historic returns where a historic token is, false if it is a live one.
func (t PageToken) Historic() (Token, bool) { return t.at, t.text != "" && t.text[0] == 't' }

// Stream returns where the token is in the stream; for one of several writers
// where those are that it does not name.
func (t PageToken) Stream() int64 { return t.at.Stream }

// Writers returns where the writers are that a live token names. All are beyond
// [PageToken.Stream], and none is named twice. The caller must not change them.
func (t PageToken) Writers() []WriterPosition { return t.writers }

// String formats the token as it is written on the wire: one that was parsed as
// it was.
func (t PageToken) String() string { return t.text }

// MarshalText implements [encoding.TextMarshaler].
func (t PageToken) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; its errors wrap
// [ErrPageToken].
func (t *PageToken) UnmarshalText(text []byte) error {
	parsed, err := ParsePageToken(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// ParsePageToken parses a token of any form. The place has one spelling only; the
// rest may have any number of components, each a number or a place of several
// writers. Each of the two may have 4096 bytes. Errors wrap [ErrPageToken].
func ParsePageToken(s string) (PageToken, error) {
	place, rest, more := strings.Cut(s, "_")
	if len(place) > maxPageToken || len(rest) > maxPageToken {
		return PageToken{}, fmt.Errorf("%d bytes: %w", len(s), ErrPageToken)
	}
	t, ok := parsePlace(place)
	for ok && more {
		var component string
		component, rest, more = strings.Cut(rest, "_")
		ok = isComponent(component)
	}
	if !ok {
		return PageToken{}, fmt.Errorf("%.100q: %w", s, ErrPageToken)
	}
	t.text, t.place = s, len(place)
	return t, nil
}

// parsePlace parses a token's first component.
func parsePlace(s string) (t PageToken, ok bool) {
	if s == "" {
		return t, false
	}
	switch s[0] {
	case 's':
		t.at.Stream, ok = parseOrdering(s[1:])
	case 't':
		topological, stream, cut := strings.Cut(s[1:], "-")
		var ok1, ok2 bool
		t.at.Topological, ok1 = parseOrdering(topological)
		t.at.Stream, ok2 = parseOrdering(stream)
		ok = cut && ok1 && ok2
	case 'm':
		least, rest, more := strings.Cut(s[1:], "~")
		t.at.Stream, ok = parseOrdering(least)
		for ok && more {
			var part string
			part, rest, more = strings.Cut(rest, "~")
			if part != "" { // a token that names no writer may end in ~
				ok = t.addWriter(part)
			}
		}
	}
	return t, ok
}

// maxWriters is how many writers a token may name: homeservers have a dozen, and
// each costs a comparison per event.
const maxWriters = 64

// addWriter adds what <writer>.<stream> says.
func (t *PageToken) addWriter(part string) bool {
	writer, stream, _ := strings.Cut(part, ".")
	var w WriterPosition
	var ok1, ok2 bool
	w.Writer, ok1 = parseOrdering(writer)
	w.Stream, ok2 = parseOrdering(stream)
	if !ok1 || !ok2 || w.Writer < 0 || w.Stream <= t.at.Stream || len(t.writers) == maxWriters {
		return false
	}
	for _, other := range t.writers {
		if other.Writer == w.Writer {
			return false
		}
	}
	t.writers = append(t.writers, w)
	return true
}

// parseOrdering parses a number in the one spelling that it has.
func parseOrdering(s string) (int64, bool) {
	digits := strings.TrimPrefix(s, "-")
	if !allDigits(digits) || (digits[0] == '0' && (len(digits) > 1 || len(digits) < len(s))) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// isComponent reports whether a homeserver may have written it after the place.
func isComponent(s string) bool {
	several, ok := strings.CutPrefix(s, "m")
	if !ok {
		return allDigits(strings.TrimPrefix(s, "-"))
	}
	least, rest, more := strings.Cut(several, "~")
	ok = allDigits(strings.TrimPrefix(least, "-"))
	for ok && more {
		var part string
		part, rest, more = strings.Cut(rest, "~")
		writer, stream, cut := strings.Cut(part, ".")
		ok = part == "" || cut && allDigits(writer) && allDigits(strings.TrimPrefix(stream, "-"))
	}
	return ok
}

// allDigits reports whether the text is a number without a sign.
func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
