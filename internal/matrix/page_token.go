package matrix

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrPageToken is returned for text that is not a page token.
var ErrPageToken = errors.New("not a page token")

// maxPageToken is the maximum size of a token's place and of its rest, in bytes. A
// homeserver's tokens have about 50, and 20 more for each writer.
const maxPageToken = 4096

// ownRest follows the place in Lethe's own tokens. It has nine places in streams that
// are irrelevant to rooms. Older homeservers refuse more than nine, and newer ones
// add the missing ones.
const ownRest = "_0_0_0_0_0_0_0_0_0"

// A PageToken is a place in the timeline of a room, as clients pass it around:
//
//   - t<topological>-<stream>, just after the event with these orderings: see
//     [Token].
//   - s<stream>, just after the events that had arrived at this position of the
//     stream.
//   - m<stream>~<writer>.<stream>~…, the same if several processes write the
//     stream: each named writer is at the position after its name, and all others
//     are at the first position.
//
// The rest of the token, from the first underscore on, has places in other streams.
// It is not changed. The zero PageToken is no token, and is written as "".
type PageToken struct {
	text    string // the whole token, as it was written
	place   int    // length of its first component
	at      Token  // a live token sets only Stream
	writers []WriterPosition
}

// A WriterPosition is how far a process had written the stream of events.
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

// Historic returns the place of a historic token. It is false for a live token.
func (t PageToken) Historic() (Token, bool) { return t.at, t.text != "" && t.text[0] == 't' }

// Stream returns the token's position in the stream. In a token with writers it is
// the position of the writers that the token does not name.
func (t PageToken) Stream() int64 { return t.at.Stream }

// Writers returns the positions of the writers that a live token names. Each writer
// occurs once, and its position is beyond [PageToken.Stream]. The caller must not
// change the result.
func (t PageToken) Writers() []WriterPosition { return t.writers }

// String returns the token in wire format. A parsed token has its original text.
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

// ParsePageToken parses a token of any form. Each place has only one spelling. The
// rest may have any number of components, each a number or a place with writers. The
// place and the rest may have 4096 bytes each. Errors wrap [ErrPageToken].
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
			if part != "" { // a token without writers may end in ~
				ok = t.addWriter(part)
			}
		}
	}
	return t, ok
}

// maxWriters is the maximum number of writers in a token. Homeservers have about a
// dozen, and each costs a comparison per event.
const maxWriters = 64

// addWriter adds the writer of a <writer>.<stream>.
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

// parseOrdering parses a number in its only valid spelling.
func parseOrdering(s string) (int64, bool) {
	digits := strings.TrimPrefix(s, "-")
	if !allDigits(digits) || (digits[0] == '0' && (len(digits) > 1 || len(digits) < len(s))) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// isComponent reports whether s is a valid component after the place.
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

// allDigits reports whether s is a number without a sign.
func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// ErrToken is returned for text that is not a historic page token.
var ErrToken = errors.New("not a historic page token")

// A Token is a historic page token, t<topological>-<stream>: the position just after
// the event with these two orderings. Stream may be negative, as for backfilled
// events. Topological is a depth, and may not be negative: the wire format does not
// allow it.
type Token struct {
	Topological int64
	Stream      int64
}

// String returns the token in wire format.
func (t Token) String() string {
	return fmt.Sprintf("t%d-%d", t.Topological, t.Stream)
}

// ParseToken parses the format of [Token.String]. For live tokens (s…, m…) and any
// other text the error wraps [ErrToken].
func ParseToken(s string) (Token, error) {
	place, ok := parsePlace(s)
	if !ok || s[0] != 't' {
		return Token{}, fmt.Errorf("%q: %w", s, ErrToken)
	}
	return place.at, nil
}

// MarshalText implements [encoding.TextMarshaler].
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; its errors wrap
// [ErrToken].
func (t *Token) UnmarshalText(text []byte) error {
	parsed, err := ParseToken(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}
