package matrix

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

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
	rest, ok := strings.CutPrefix(s, "t")
	topological, stream, cut := strings.Cut(rest, "-")
	if !ok || !cut {
		return Token{}, fmt.Errorf("%q: %w", s, ErrToken)
	}
	var t Token
	var err1, err2 error
	t.Topological, err1 = strconv.ParseInt(topological, 10, 64)
	t.Stream, err2 = strconv.ParseInt(stream, 10, 64)
	// ParseInt accepts signs and leading zeros, but a position must have only one
	// spelling.
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
