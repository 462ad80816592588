package matrix

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCanonicalJSONOfTheSpecification has the examples of the Matrix
// specification's appendix.
func TestCanonicalJSONOfTheSpecification(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{}`:                               `{}`,
		"{\n\"one\": 1, \"two\": \"Two\"}": `{"one":1,"two":"Two"}`,
		`{ "b": "2", "a": "1" }`:           `{"a":"1","b":"2"}`,
		`{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe", "three_pids": [
			{"medium": "email", "address": "john.doe@example.org"}, {"medium": "msisdn", "address": "123456789"}]}}}`: `{"auth":{"mxid":"@john.doe:example.com",` +
			`"profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`,
		`{"a": "日本語"}`:           `{"a":"日本語"}`,
		`{"本": 2, "日": 1}`:       `{"日":1,"本":2}`,
		`{"a": "\u65E5"}`:        `{"a":"日"}`,
		`{"a": null}`:            `{"a":null}`,
		`{"a": -0, "b": 1e10}`:   `{"a":0,"b":10000000000}`,
		` [ ] `:                  `[]`,
		`"\u0041\/\"\\\u0008\f"`: `"A/\"\\\b\f"`,
	} {
		got, err := CanonicalJSON([]byte(raw))
		require.NoError(t, err, raw)
		require.Equal(t, want, string(got))
	}
}

func TestCanonicalJSON(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`"\u0000\u001F\u007f\u2028\r\n\t<>&"`: "\"\\u0000\\u001f\u007f\u2028\\r\\n\\t<>&\"",
		`"\uD83D\uDE00"`:                      `"😀"`,
		`"\\uD83D"`:                           `"\\uD83D"`,
		// By code point, not by UTF-16 unit, where the second would come first.
		`{"😀":1,"\uFFFD":2,"":3}`:                             `{"":3,"�":2,"😀":1}`,
		`9007199254740991`:                                    `9007199254740991`,
		`-9007199254740991`:                                   `-9007199254740991`,
		`9007199254740991E+0`:                                 `9007199254740991`,
		`[true,false,[],{"":{}}]`:                             `[true,false,[],{"":{}}]`,
		strings.Repeat("[", 1000) + strings.Repeat("]", 1000): strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
	} {
		got, err := CanonicalJSON([]byte(raw))
		require.NoError(t, err, raw)
		require.Equal(t, want, string(got))
	}
	for _, raw := range []string{
		"", " ", "{", "{}{}", "nul", "{a:1}", `{"a":1,}`, `[1 2]`, "'a'", "NaN", "Infinity", "01", "+1", `"` + "\n" + `"`, `"\x41"`,
		"9007199254740992", "-9007199254740992", "9007199254740991.5", "1.0", "1.5", "0.1e1", "10e-1", "1e16", "1e999", "-1e999", "99999999999999999999",
		`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `[{"b":{"a":1,"a":2}}]`,
		`"\uD83D"`, `"\uDE00"`, `"\uDE00\uD83D"`, `"\uD83D\n"`, `"\uD83Dx\uDE00"`, `{"\uD83D":1}`, "\"\xff\"", "\"\xed\xa0\xbd\"", "\xef\xbb\xbf{}",
		strings.Repeat("[", 1001) + strings.Repeat("]", 1001),
		strings.Repeat(`{"a":`, 1001) + "1" + strings.Repeat("}", 1001),
		strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000),
	} {
		got, err := CanonicalJSON([]byte(raw))
		require.ErrorIs(t, err, ErrJSON, "%.50s", raw)
		require.Nil(t, got)
	}
}

func TestCanonicalJSONOfGo(t *testing.T) {
	t.Parallel()
	type name string
	one := 1
	got, err := appendCanonical(nil, map[string]any{
		"array": []any{"a", "b"}, "bool": true, "float": float32(3), "int": 50, "level": map[name]int{"x": 100, "a": -1}, "name": name("b"),
		"nil": nil, "nilMap": map[string]int(nil), "nilPointer": (*int)(nil), "nilSlice": []string(nil), "number": json.Number("7"), "pointer": &one,
		"slice": []string{"z", "a"}, "uint": uint8(255), "zero": math.Copysign(0, -1),
	}, 0)
	require.NoError(t, err)
	require.Equal(t, `{"array":["a","b"],"bool":true,"float":3,"int":50,"level":{"a":-1,"x":100},"name":"b","nil":null,"nilMap":{},"nilPointer":null,`+
		`"nilSlice":[],"number":7,"pointer":1,"slice":["z","a"],"uint":255,"zero":0}`, string(got))

	endless := map[string]any{}
	endless["again"] = endless
	for _, value := range []any{
		1.5, math.NaN(), math.Inf(1), uint64(math.MaxUint64), int64(math.MinInt64), "\xff",
		map[string]any{"\xff": 1},
		[]byte("{}"), json.RawMessage("{}"),
		map[int]string{},
		struct{}{},
		make(chan int), json.Number("x"), endless,
	} {
		_, err := appendCanonical(nil, value, 0)
		require.ErrorIs(t, err, ErrJSON, "%T", value)
	}
}

// FuzzCanonicalJSON checks that the canonical form has the same value as the text, and
// does not change when it is canonicalised again.
func FuzzCanonicalJSON(f *testing.F) {
	for _, seed := range []string{
		`{"b":[1,-0,1e3],"a":{"\u65E5":null,"":true}}`, `"\uD83D\uDE00\/\\u"`, `"\uD83D"`, `{"a":1,"a":2}`, `1.5`, `[[[[]]]]`, "\"\x7f\"", `9007199254740992`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		canonical, err := CanonicalJSON(raw)
		if err != nil {
			require.ErrorIs(t, err, ErrJSON)
			return
		}
		var want, got any
		require.NoError(t, json.Unmarshal(raw, &want))
		require.NoError(t, json.Unmarshal(canonical, &got))
		require.Equal(t, normalised(want), normalised(got))
		again, err := CanonicalJSON(canonical)
		require.NoError(t, err)
		require.Equal(t, string(canonical), string(again))
		built, err := appendCanonical(nil, want, 0)
		require.NoError(t, err)
		require.Equal(t, string(canonical), string(built))
	})
}

// normalised returns the value with 0 for negative zeros, which canonical JSON cannot
// represent.
func normalised(value any) any {
	switch value := value.(type) {
	case float64:
		return value + 0
	case []any:
		for i := range value {
			value[i] = normalised(value[i])
		}
	case map[string]any:
		for key := range value {
			value[key] = normalised(value[key])
		}
	}
	return value
}
