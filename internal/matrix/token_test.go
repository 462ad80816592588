package matrix

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseToken(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Token{
		"t0-0":     {},
		"t12-345":  {12, 345},
		"t12--345": {12, -345},
		"t9223372036854775807-9223372036854775807": {math.MaxInt64, math.MaxInt64},
		"t0--9223372036854775808":                  {0, math.MinInt64},
	} {
		got, err := ParseToken(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{
		"", "t", "t-", "t1", "t1-", "t-1", "t-1-2", "12-345", "T1-2", "s1", "s1-2", "m5~1.2", "t1-2-3", "t1_2",
		"t+1-2", "t1-+2", "t01-2", "t1-02", "t1--0", "t1---2", "t1-2 ", " t1-2", "t1-2\n", "t1_000-2", "t0x1-2", "t١-2",
		"t9223372036854775808-0", "t0-9223372036854775808", "t0--9223372036854775809",
	} {
		got, err := ParseToken(text)
		require.ErrorIs(t, err, ErrToken, text)
		require.Zero(t, got)
	}
}

func TestTokenInJSON(t *testing.T) {
	t.Parallel()
	want := struct{ Start Token }{Token{3, -4}}
	text, err := json.Marshal(want)
	require.NoError(t, err)
	require.JSONEq(t, `{"Start":"t3--4"}`, string(text))

	got := want
	require.NoError(t, json.Unmarshal(text, &got))
	require.Equal(t, want, got)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"Start":"s3"}`), &got), ErrToken)
	require.Equal(t, want, got, "a failure leaves the token as it was")
}

// FuzzParseToken checks that an accepted token has only one spelling, and that
// ParseToken accepts every formatted token.
func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{"t12-345", "t12--345", "t-1-2", "s1", "t01-2", "t1--0", ""} {
		f.Add(seed, int64(12), int64(-345))
	}
	f.Fuzz(func(t *testing.T, text string, topological, stream int64) {
		if token, err := ParseToken(text); err == nil && token.String() != text {
			t.Errorf("%q is read as %q", text, token)
		}
		token := Token{max(0, topological&math.MaxInt64), stream}
		if got, err := ParseToken(token.String()); err != nil || got != token {
			t.Errorf("%q is read as %q, %v", token, got, err)
		}
	})
}
