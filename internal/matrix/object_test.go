package matrix

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// nested returns a value inside the given number of arrays or objects.
func nested(opening, value, closing string, levels int) string {
	return strings.Repeat(opening, levels) + value + strings.Repeat(closing, levels)
}

func TestSplitObject(t *testing.T) {
	t.Parallel()
	object, ok := SplitObject(nil, []byte(" {\"a\" : [1, 2] ,\n\"\\u0062\":{\"x\":1,\"x\":2},\"a\":\"\\n\",\"\":1e400} "))
	require.True(t, ok)
	require.Len(t, object, 3)
	require.Equal(t, `"\n"`, string(object.Get("a")), "the last counts")
	require.Equal(t, `{"x":1,"x":2}`, string(object.Get("b")))
	require.Equal(t, `"\u0062"`, string(object[1].Key))
	require.Equal(t, `1e400`, string(object.Get("")))
	require.Nil(t, object.Get("x"))

	// The names of an appended object are independent of the first object's.
	both, ok := SplitObject(object, []byte(`{"a":2}`))
	require.True(t, ok)
	require.Len(t, both, 4)
	require.Equal(t, `2`, string(both[3:].Get("a")))

	for _, levels := range []struct {
		count int
		ok    bool
	}{{maxNesting - 1, true}, {maxNesting, false}, {100_000, false}} {
		for _, brackets := range [][2]string{{`[`, `]`}, {`{"a":`, `}`}} {
			_, ok := SplitObject(nil, []byte(`{"a":`+nested(brackets[0], "1", brackets[1], levels.count)+`}`))
			require.Equal(t, levels.ok, ok, levels.count)
		}
	}
}

// Objects with many fields compare names differently.
func TestSplitObjectOfManyFields(t *testing.T) {
	t.Parallel()
	const count = 20_000
	var text strings.Builder
	for i := range 2 * count {
		fmt.Fprintf(&text, `,"k%d":%d`, i%count, i)
	}
	object, ok := SplitObject(nil, []byte("{"+text.String()[1:]+"}"))
	require.True(t, ok)
	require.Len(t, object, count)
	for i, field := range object {
		require.Equal(t, fmt.Sprint("k", i), string(field.Name))
		require.Equal(t, fmt.Sprint(i+count), string(field.Value))
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for spelled, want := range map[string]string{`""`: "", `"a"`: "a", `"\u0061\n\ud83c\udf89"`: "a\n🎉", `"🎉"`: "🎉", `"\u0000"`: "\x00"} {
		text, ok := Text([]byte(spelled))
		require.True(t, ok, spelled)
		require.Equal(t, want, text)
		require.True(t, Says([]byte(spelled), want))
		require.False(t, Says([]byte(spelled), want+"x"))
	}
	for _, spelled := range []string{``, `"`, `1`, `null`, `{}`, `["a"]`, `"\"`, `"a`} {
		_, ok := Text([]byte(spelled))
		require.False(t, ok, spelled)
		require.False(t, Says([]byte(spelled), ""), spelled)
	}
}

// FuzzSplitObject compares SplitObject with encoding/json: both accept the same texts,
// with the same names and values.
func FuzzSplitObject(f *testing.F) {
	for _, text := range []string{
		`{}`, ` { } `, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":[{"b":[]},null,true,false,-0.5e+10,1E-3,"\"\\\/\b\f\n\r\t\u00ff"]}`, `null`, `[]`, ``,
		`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.1}`, `{"a":1e}`, `{"a":+1}`, `{"a":tru}`, `{"a":nulls}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\ud800"}`,
		`{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1}{`, `{"a":[1,]}`, `{"a":[}`, `{a:1}`, `{"a":1 "b":2}`, "{\"a\":\"\x01\"}", "{\"\xff\":1}", `{"a":"`, `{"a\`,
		`{"\ud800":1,"\ufffd":2}`, "\ufeff{}", "{\"a\":\"\u2028\"}", `{"a":1e999}`, "{\"a\"\v:1}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		object, ok := SplitObject(nil, text)
		var want map[string]json.RawMessage
		wanted := utf8.Valid(text) && json.Unmarshal(text, &want) == nil && want != nil
		if ok != wanted {
			// They may differ only for very deep nesting.
			require.False(t, ok, "%q", text)
			require.Greater(t, strings.Count(string(text), "[")+strings.Count(string(text), "{"), maxNesting, "%q", text)
			return
		}
		require.Len(t, object, len(want))
		for name, value := range want {
			require.Equal(t, string(value), string(object.Get(name)), "%q", name)
		}
		for _, field := range object {
			name, ok := Text(field.Key)
			require.True(t, ok)
			require.Equal(t, name, string(field.Name))
		}
	})
}
