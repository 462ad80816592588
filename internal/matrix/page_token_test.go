package matrix

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePageToken(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]PageToken{
		"s0":                            {at: Token{0, 0}},
		"s12_0_0":                       {at: Token{0, 12}},
		"s-3":                           {at: Token{0, -3}},
		"t12-345_1_-2_3_4_5_6_7_8_9":    {at: Token{12, 345}},
		"t12--345":                      {at: Token{12, -345}},
		"t0-0_007_m5_m5~_m5~1.6~2.-7_0": {},
		"m5":                            {at: Token{0, 5}},
		"m5~":                           {at: Token{0, 5}},
		"m5~~2.7":                       {at: Token{0, 5}, writers: []WriterPosition{{2, 7}}},
		"m-5~1.-4~2.7~_0":               {at: Token{0, -5}, writers: []WriterPosition{{1, -4}, {2, 7}}},
		"t9223372036854775807--9223372036854775808": {at: Token{math.MaxInt64, math.MinInt64}},
	} {
		got, err := ParsePageToken(text)
		require.NoError(t, err, text)
		require.Equal(t, text, got.String())
		want.text, want.place = got.text, got.place
		require.Equal(t, want, got, text)
		at, historic := got.Historic()
		require.Equal(t, text[0] == 't', historic, text)
		require.Equal(t, want.at, at, text)
		require.Equal(t, want.at.Stream, got.Stream())
		require.Equal(t, want.writers, got.Writers())
	}
	for _, text := range []string{
		"", "_", "_0", "s", "t", "m", "z", "s_0", "s0_", "s0__0", "s0_a", "s0_-", "s0_1.5", "s0_t1-2", "s0_s1", "s0_m", "s0_m1~2", "s0_m1~.2",
		"s01", "s-0", "s+1", "s 1", "s1 ", "s١", "s0x1", "s1_000\n", "s9223372036854775808", "S1", "12",
		"t1", "t1-", "t-1", "t-1-2", "t1-2-3", "t01-2", "t1-02", "t1--0", "t1---2", "t1-+2",
		"m5~6", "m5~6.", "m5~.6", "m5~1.5", "m5~1.4", "m5~1.06", "m5~-1.6", "m5~1.6.7", "m5~1.6~1.7", "m~1.6", "m05~1.6", "m5~1.9223372036854775808",
		"s0_" + strings.Repeat("0", maxPageToken+1), "m5" + strings.Repeat("~", maxPageToken),
	} {
		got, err := ParsePageToken(text)
		require.ErrorIs(t, err, ErrPageToken, text)
		require.Zero(t, got)
		require.Less(t, len(err.Error()), 500)
	}
}

func TestPageTokenOfSomeLength(t *testing.T) {
	t.Parallel()
	long := "s0_" + strings.Repeat("0", maxPageToken)
	got, err := ParsePageToken(long)
	require.NoError(t, err)
	require.Equal(t, long, got.String())
	_, err = ParsePageToken(got.Moved(Token{math.MaxInt64, math.MinInt64}).String())
	require.NoError(t, err)

	writers := "m5"
	for i := range maxWriters {
		writers += "~" + string(rune('1'+i/10)) + string(rune('0'+i%10)) + ".6"
	}
	got, err = ParsePageToken(writers)
	require.NoError(t, err)
	require.Len(t, got.Writers(), maxWriters)
	_, err = ParsePageToken(writers + "~1.6")
	require.ErrorIs(t, err, ErrPageToken)
}

func TestPageTokenMoves(t *testing.T) {
	t.Parallel()
	require.Equal(t, "s12_0_0_0_0_0_0_0_0_0", LivePageToken(12).String())
	own := NewPageToken(Token{3, -4})
	require.Equal(t, "t3--4_0_0_0_0_0_0_0_0_0", own.String())
	for text, want := range map[string]string{
		own.String():             "t7-8_0_0_0_0_0_0_0_0_0",
		"s1":                     "t7-8",
		"m5~1.6_1_m2~3.4_-1_005": "t7-8_1_m2~3.4_-1_005",
		"t1-2_3":                 "t7-8_3",
	} {
		token, err := ParsePageToken(text)
		require.NoError(t, err)
		moved := token.Moved(Token{7, 8})
		require.Equal(t, want, moved.String())
		again, err := ParsePageToken(want)
		require.NoError(t, err)
		require.Equal(t, again, moved)
		require.Equal(t, text, token.String(), "Moved must not change the token")
	}
	require.Empty(t, PageToken{}.String())
	_, historic := PageToken{}.Historic()
	require.False(t, historic)
}

func TestPageTokenInJSON(t *testing.T) {
	t.Parallel()
	type page struct{ Start PageToken }
	want := page{NewPageToken(Token{3, -4})}
	text, err := json.Marshal(want)
	require.NoError(t, err)
	require.JSONEq(t, `{"Start":"t3--4_0_0_0_0_0_0_0_0_0"}`, string(text))
	var got page
	require.NoError(t, json.Unmarshal(text, &got))
	require.Equal(t, want, got)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"Start":"x"}`), &got), ErrPageToken)
	require.Equal(t, want, got, "a failure leaves the token as it was")
}

// FuzzParsePageToken checks that an accepted token keeps its text, that its place has
// only one spelling, and that a moved token is valid and keeps the rest.
func FuzzParsePageToken(f *testing.F) {
	for _, seed := range []string{
		"s1", "s0_0_0_0_0_0_0_0_0_0", "t12--345_1", "m5~", "m5~1.6~2.7_m1~2.3_-4", "t-1-2", "s01", "s1__2", "m5~1.5", "_", "",
	} {
		f.Add(seed, int64(12), int64(-345))
	}
	f.Fuzz(func(t *testing.T, text string, topological, stream int64) {
		token, err := ParsePageToken(text)
		if err != nil {
			if token.String() != "" {
				t.Errorf("%q is refused and read as %q", text, token)
			}
			return
		}
		if token.String() != text {
			t.Errorf("%q is read as %q", text, token)
		}
		place, rest, _ := strings.Cut(text, "_")
		if at, historic := token.Historic(); historic && at.String() != place {
			t.Errorf("%q is read as %q", text, at)
		}
		for _, w := range token.Writers() {
			if w.Stream <= token.Stream() || w.Writer < 0 {
				t.Errorf("%q has the writer %v", text, w)
			}
		}
		to := Token{topological & math.MaxInt64, stream}
		moved := token.Moved(to)
		again, err := ParsePageToken(moved.String())
		_, movedRest, _ := strings.Cut(moved.String(), "_")
		if at, historic := again.Historic(); err != nil || !historic || at != to || movedRest != rest {
			t.Errorf("%q is moved to %q, which is read as %v, %v", text, moved, at, err)
		}
	})
}

func TestEventFormat(t *testing.T) {
	t.Parallel()
	for version, want := range map[RoomVersion]int{"1": 1, "2": 1, "3": 2, "4": 3, "8": 3, "11": 3, "12": 4, "13": 0, "": 0, "org.example.12": 0} {
		got, ok := version.EventFormat()
		require.Equal(t, want, got, version)
		require.Equal(t, want > 0, ok, version)
	}
}
