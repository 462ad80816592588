package matrix

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrToken is returned for text that is not a historic page token.
var ErrToken = errors.New("not a historic page token")

// A Token is a historic page token, t<topological>-<stream>: the position just
// after the event with these two orderings. Stream may be negative, as it is
// for events that were backfilled; Topological, which is a depth, may not: the
// wire has no spelling for it.
type Token struct {
	Topological int64
	Stream      int64
}

// String formats the token as it is written on the wire.
func (t Token) String() string {
	return fmt.Sprintf("t%d-%d", t.Topological, t.Stream)
}

// ParseToken parses what [Token.String] formats. Live tokens (s…, m…) and
// everything else give an error that wraps [ErrToken].
func ParseToken(s string) (Token, error) {
	rest, ok := strings.CutPrefix(s, "t")
	topological, stream, cut := strings.Cut(rest, "-")
	if !ok || !cut {
		return Token{}, fmt.Errorf("%q: %w", s, ErrToken)
	}
	var t Token
	var err1, err2 error
	t.Topological, err1 = strconv.ParseInt(topological, 10, 64)
	t.Stream, err2 = strconv.ParseInt(stream, 10, 64)
	// Signs and leading zeros that ParseInt lets through would give one
	// position several spellings.
	if err1 != nil || err2 != nil || t.String() != s {
		return Token{}, fmt.Errorf("%q: %w", s, ErrToken)
	}
	return t, nil
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
