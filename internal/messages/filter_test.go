package messages

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"lethe/internal/store/timeline"

	"github.com/stretchr/testify/require"
)

func TestParseFilter(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Filter{
		"": {}, "  ": {}, "null": {}, "false": {}, "0": {}, "-0.00e7": {}, "0E1": {}, `""`: {}, "[]": {}, " [ \n] ": {}, "{}": {}, " { } ": {},
		`{"limit":7,"unread_thread_notifications":true,"include_redundant_members":true,"event_fields":["x"],"Types":["x"],"TYPES":[]}`: {},
		`{"types":null,"senders":null,"contains_url":null,"rooms":null,"org.matrix.labels":null}`:                                       {},
		`{"types":["a","b*","**c**d_%\\","m.*.x"],"not_types":["e","*"]}`: {events: timeline.EventFilter{
			Types: []string{"a"}, TypePatterns: []string{`b%`, `%c%d\_\%\\`, `m.%.x`}, NotTypes: []string{"e"}, NotTypePatterns: []string{"%"},
		}},
		`{"senders":["@a:x"],"not_senders":["@b:x"]}`:                {events: timeline.EventFilter{Senders: []string{"@a:x"}, NotSenders: []string{"@b:x"}}},
		`{"rooms":["!a","!b"],"not_rooms":["!c"]}`:                   {rooms: []string{"!a", "!b"}, notRooms: []string{"!c"}},
		`{"contains_url":true}`:                                      {events: timeline.EventFilter{ContainsURL: true}, url: new(true), checksContent: true},
		`{"contains_url":false}`:                                     {url: new(false), checksContent: true},
		`{"contains_url":"true"}`:                                    {matchesNothing: true},
		`{"contains_url":1}`:                                         {matchesNothing: true},
		`{"org.matrix.labels":["#a"]}`:                               {events: timeline.EventFilter{Labels: []string{"#a"}}, labels: []string{"#a"}, checksContent: true},
		`{"org.matrix.not_labels":["#a"]}`:                           {notLabels: []string{"#a"}, checksContent: true},
		`{"related_by_senders":["@a:x"]}`:                            {events: timeline.EventFilter{RelatedBySenders: []string{"@a:x"}}},
		`{"related_by_rel_types":["m.thread"]}`:                      {events: timeline.EventFilter{RelatedByTypes: []string{"m.thread"}}},
		`{"related_by_senders":[],"related_by_rel_types":[]}`:        {},
		`{"related_by_senders":[7]}`:                                 {matchesNothing: true},
		`{"org.matrix.msc3874.rel_types":["m.thread"]}`:              {events: timeline.EventFilter{RelationTypes: []string{"m.thread"}}},
		`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`:          {events: timeline.EventFilter{NotRelationTypes: []string{"m.thread"}}},
		`{"lazy_load_members":true,"event_format":"federation"}`:     {lazy: true, federation: true},
		`{"lazy_load_members":"true","event_format":["federation"]}`: {},
		`{"types":[]}`:   {dropsAll: true, checksContent: true},
		`{"senders":[]}`: {dropsAll: true, checksContent: true},
		`{"rooms":[]}`:   {dropsAll: true, checksContent: true},
		`{"not_types":[],"not_senders":[],"not_rooms":[],"org.matrix.not_labels":[]}`: {},
		`{"types":"m.room.message"}`: {matchesNothing: true},
		`{"types":{"a":1}}`:          {matchesNothing: true},
		`{"senders":true}`:           {matchesNothing: true},
		`{"types":[1,null,["a"]]}`:   {matchesNothing: true},
		`{"types":[1,"a",null]}`:     {events: timeline.EventFilter{Types: []string{"a"}}},
		`{"senders":["@a\u0000:x"]}`: {matchesNothing: true},
		`{"not_senders":"@a:x","not_types":7,"not_rooms":{"a":"b"}}`: {},
		`{"types":["a"],"types":["b"]}`:                              {events: timeline.EventFilter{Types: []string{"b"}}},
	} {
		got, err := ParseFilter([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]error{
		"}}}{}": ErrFilterJSON, "{": ErrFilterJSON, "{}x": ErrFilterJSON, "{}\f": ErrFilterJSON, "\u00a0{}": ErrFilterJSON, "nul": ErrFilterJSON, "NaN": ErrFilterJSON, "{\"types\":[\"\x01\"]}": ErrFilterJSON,
		strings.Repeat("[", 20_000): ErrFilterJSON,
		"1":                         ErrFilterObject, "-0.01": ErrFilterObject, "true": ErrFilterObject, `"x"`: ErrFilterObject, "[0]": ErrFilterObject, "[[]]": ErrFilterObject,
		`{"a":"` + strings.Repeat("a", maxFilter) + `"}`:                         ErrFilterObject,
		`{"types":[` + strings.Repeat(`"a",`, maxFilterList) + `"a"]}`:           ErrFilterObject,
		`{"not_senders":[` + strings.Repeat(`1,`, maxFilterList) + `1]}`:         ErrFilterObject,
		`{"not_types":[` + strings.Repeat(`"a*",`, maxPatterns) + `"b*"]}`:       ErrFilterObject,
		`{"types":[` + strings.Repeat(`"*",`, maxPatterns) + `"` + `*b*` + `"]}`: ErrFilterObject,
	} {
		_, err := ParseFilter([]byte(text))
		require.ErrorIs(t, err, want, "%.50s", text)
	}
}

// FuzzParseFilter: no filter does harm, and what becomes of one can be asked of a
// database and is not more than it was.
func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{
		`{"types":["a*","b"],"not_types":["**"]}`, `{"types":[]}`, `{"contains_url":1e400}`, `{"org.matrix.labels":["\ud800","\u0000","%%"]}`,
		`[]`, `0`, `-0`, `"`, `{"rooms":7}`, "}}}{}", ``, strings.Repeat(`{"types":`, 100),
	} {
		f.Add(seed, `{"content":{"url":"x","org.matrix.labels":["a",7]}}`)
	}
	f.Fuzz(func(t *testing.T, text, event string) {
		filter, err := ParseFilter([]byte(text))
		if (err == nil) != (json.Valid([]byte(text)) || strings.Trim(text, " \t\r\n") == "") && strings.HasPrefix(text, "{") && len(text) < 1000 {
			t.Errorf("%q gives %v", text, err)
		}
		if err != nil {
			return
		}
		e := filter.events
		for _, list := range [][]string{e.Types, e.TypePatterns, e.NotTypes, e.NotTypePatterns, e.Senders, e.NotSenders, e.Labels, filter.rooms, filter.notRooms} {
			if len(list) > maxFilterList {
				t.Errorf("%q has a list of %d", text, len(list))
			}
			for _, s := range list {
				if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
					t.Errorf("%q asks for %q", text, s)
				}
			}
		}
		for _, pattern := range slices.Concat(e.TypePatterns, e.NotTypePatterns) {
			if strings.Contains(strings.NewReplacer(`\\`, "x", `\%`, "x", `\_`, "x").Replace(pattern), "%%") {
				t.Errorf("%q looks for anything twice: %q", text, pattern)
			}
		}
		filter.excludes("!a")
		passed := filter.passing([]timeline.Event{{JSON: json.RawMessage(event)}})
		if !filter.checksContent && len(passed) != 1 {
			t.Errorf("%q judges what it need not", text)
		}
	})
}

// TestFilterAfterReading: what the database is not asked for is judged by what the
// events say.
func TestFilterAfterReading(t *testing.T) {
	t.Parallel()
	contents := []string{
		`{"url":"mxc://x/y"}`, `{"url":7}`, `{"URL":"x"}`, `{}`, `[]`, `null`, `7`,
		`{"org.matrix.labels":["#a"]}`, `{"org.matrix.labels":["#b",7,"#a"]}`, `{"org.matrix.labels":"#a"}`, `{"org.matrix.labels":["#b"]}`,
		`{"url":"x","url":1}`, `{"n":1e400,"url":""}`,
	}
	events := func() (all []timeline.Event) {
		for i, content := range contents {
			all = append(all, timeline.Event{ID: fmt.Sprint(i), JSON: json.RawMessage(`{"Content":{"url":"x"},"content":` + content + `}`)})
		}
		return append(
			all,
			timeline.Event{ID: "no JSON", JSON: json.RawMessage(`{"content":{"url":"x"}`)},
			timeline.Event{ID: "redacted", JSON: json.RawMessage(`{"content":{"url":"x","org.matrix.labels":["#a"]}}`), RedactedBy: new("$r")},
		)
	}
	for text, want := range map[string][]string{
		`{"contains_url":true}`:                                            {"0", "12"},
		`{"contains_url":false}`:                                           {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "no JSON", "redacted"},
		`{"org.matrix.labels":["#a","#c"]}`:                                {"7", "8"},
		`{"org.matrix.labels":["#a","#b"],"org.matrix.not_labels":["#b"]}`: {"7"},
		`{"org.matrix.not_labels":["#a"],"contains_url":true}`:             {"0", "12"},
		`{"types":[],"contains_url":true}`:                                 nil,
		`{"senders":[]}`:                                                   nil,
	} {
		filter, err := ParseFilter([]byte(text))
		require.NoError(t, err)
		var ids []string
		for _, event := range filter.passing(events()) {
			ids = append(ids, event.ID)
		}
		require.Equal(t, want, ids, text)
	}
	for text, excluded := range map[string]bool{
		`{}`: false, `{"rooms":["!b","!a"]}`: false, `{"rooms":["!b"]}`: true, `{"not_rooms":["!a"]}`: true, `{"not_rooms":["!b"]}`: false,
		`{"rooms":["!a"],"not_rooms":["!a"]}`: true, `{"rooms":[]}`: false, `{"types":7}`: true,
	} {
		filter, err := ParseFilter([]byte(text))
		require.NoError(t, err)
		require.Equal(t, excluded, filter.excludes("!a"), text)
	}
}
