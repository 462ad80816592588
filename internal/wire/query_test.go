package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQueryIsReadAsItWasSent(t *testing.T) {
	t.Parallel()
	q := NewQuery("a;b&key&%zz=1&a%62c=x+y%2Bz&abc=second&empty=&abc=%C3%28")
	for name, want := range map[string]string{"abc": "x y+z", "%zz": "1", "empty": ""} {
		value, ok := q.Value(name)
		require.True(t, ok, name)
		require.Equal(t, want, value)
	}
	_, hasKey := q.Value("key")
	require.False(t, hasKey, "a key without a value")

	q = NewQuery("f=%257B+%2B")
	value, ok := q.TextUnescapedTwice("f")
	require.NoError(t, q.Err())
	require.True(t, ok)
	require.Equal(t, "{ +", value)
	q = NewQuery("f=%FF")
	q.Text("f")
	require.EqualError(t, q.Err(), "400 M_UNKNOWN: Query parameter 'f' must be utf-8")
}

func TestQueryIntegers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"": 7, "n=1": 1, "n=%201%09": 1, "n=+5": 5, "n=99999999999999999999": 1<<63 - 1,
	} {
		q := NewQuery(text)
		n := q.Integer("n", 7)
		require.NoError(t, q.Err(), text)
		require.Equal(t, want, n, text)
	}
	for text, want := range map[string]string{
		"n=":   "400 M_INVALID_PARAM: Query parameter n must be an integer",
		"n=1x": "400 M_INVALID_PARAM: Query parameter n must be an integer",
		"n=-1": "400 M_INVALID_PARAM: Query parameter n must be a positive integer.",
		"m=1":  "400 M_MISSING_PARAM: Missing required integer query parameter n",
	} {
		q := NewQuery(text)
		q.RequiredInteger("n")
		require.EqualError(t, q.Err(), want, text)
	}
}

func TestQueryWords(t *testing.T) {
	t.Parallel()
	q := NewQuery("w=a&w=b")
	require.Equal(t, []string{"a", "b"}, q.SeveralOf("w", "a", "b"))
	require.NoError(t, q.Err())
	q = NewQuery("w=a&w=c")
	q.SeveralOf("w", "a", "b")
	require.EqualError(t, q.Err(), "400 M_INVALID_PARAM: Query parameter 'w' must be one of ['a', 'b']")
	q.Boolean("w")
	require.EqualError(t, q.Err(), "400 M_INVALID_PARAM: Query parameter 'w' must be one of ['a', 'b']", "the first refusal counts")
	q = NewQuery("w=%C3%A4")
	q.OneOf("w", "a", "a")
	require.EqualError(t, q.Err(), "400 M_UNKNOWN: Query parameter 'w' must be ascii")
	q = NewQuery("w=TRUE")
	q.Boolean("w")
	require.EqualError(t, q.Err(), "400 M_INVALID_PARAM: Boolean query parameter 'w' must be one of ['true', 'false']")
}
