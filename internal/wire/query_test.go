package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQueryIsReadAsItWasSent(t *testing.T) {
	t.Parallel()
	q := Query("a;b&key&%zz=1&a%62c=x+y%2Bz&abc=second&empty=&abc=%C3%28")
	for name, want := range map[string]string{"abc": "x y+z", "%zz": "1", "empty": ""} {
		value, ok := q.Value(name)
		require.True(t, ok, name)
		require.Equal(t, want, value)
	}
	_, ok := q.Value("key")
	require.False(t, ok, "a key without a value")

	value, ok, err := Query("f=%257B+%2B").TextUnescapedTwice("f")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "{ +", value)
	_, _, err = Query("f=%FF").Text("f")
	require.EqualError(t, err, "400 M_UNKNOWN: Query parameter 'f' must be utf-8")
}

func TestQueryIntegers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"": 7, "n=1": 1, "n=%201%09": 1, "n=+5": 5, "n=99999999999999999999": 1<<63 - 1,
	} {
		n, err := Query(text).Integer("n", 7)
		require.NoError(t, err, text)
		require.Equal(t, want, n, text)
	}
	for text, want := range map[string]string{
		"n=":   "400 M_INVALID_PARAM: Query parameter n must be an integer",
		"n=1x": "400 M_INVALID_PARAM: Query parameter n must be an integer",
		"n=-1": "400 M_INVALID_PARAM: Query parameter n must be a positive integer.",
		"m=1":  "400 M_MISSING_PARAM: Missing required integer query parameter n",
	} {
		_, err := Query(text).RequiredInteger("n")
		require.EqualError(t, err, want, text)
	}
}

func TestQueryWords(t *testing.T) {
	t.Parallel()
	words, err := Query("w=a&w=b").SeveralOf("w", "a", "b")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, words)
	_, err = Query("w=a&w=c").SeveralOf("w", "a", "b")
	require.EqualError(t, err, "400 M_INVALID_PARAM: Query parameter 'w' must be one of ['a', 'b']")
	_, err = Query("w=%C3%A4").OneOf("w", "a", "a")
	require.EqualError(t, err, "400 M_UNKNOWN: Query parameter 'w' must be ascii")
	_, err = Query("w=TRUE").Boolean("w")
	require.EqualError(t, err, "400 M_INVALID_PARAM: Boolean query parameter 'w' must be one of ['true', 'false']")
}
