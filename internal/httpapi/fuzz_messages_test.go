package httpapi_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
)

// FuzzMessages holds that no query makes a reader's page, or an admin's, anything
// but a page or a refusal.
func FuzzMessages(f *testing.F) {
	database := devstacktest.Database(f, "httpapi chat", withChat)
	conn, err := pgx.Connect(f.Context(), database)
	require.NoError(f, err)
	var middle string
	require.NoError(f, conn.QueryRow(f.Context(), `
		SELECT event_id FROM events WHERE room_id = $1 AND depth = $2 LIMIT 1`, chat, chatEvents/2).Scan(&middle))
	require.NoError(f, conn.Close(f.Context()))
	handler := httpapi.New(openStore(f, database), &submitter{}, board{}, httpapi.Options{Log: slog.New(slog.DiscardHandler)})
	add := func(more, from, to, filter string) {
		for reader := range byte(3) {
			f.Add(reader, more, from, to, filter)
		}
	}
	const most = "9223372036854775807"
	tokens := []string{
		"", "END", "s0", "s5", "s-5", "s" + most, "t0-0", "t3-5", "t3--5", "t" + most + "-" + most, "t-1-5", "t1-2-3",
		"m1~1.5", "m1~", "m~", "m5~1.5", "m1~1.5~1.6", "m1~9.7~2." + most, "s9223372036854775808", "t1-1_0_0", "s1_m1~1.2_-5", "s1_",
		"S1", "s01", "\x00", "ü", "s1\x00",
	}
	for i, from := range tokens {
		add("dir=b", from, "", "")
		add("dir=f&limit=3", from, tokens[len(tokens)-1-i], "")
		add("dir=b&limit=1000", tokens[(i+7)%len(tokens)], from, "")
	}
	for _, filter := range []string{
		"{}", "[]", "null", "0", "0.0", "-0", "1", `""`, `"x"`, "{", "", "[1]", "\xff", "%7B%7D", "true", "false", `{"types":["m.*"],"types":[]}`,
		`{"types":null,"not_types":"m","senders":[1,null],"rooms":{}}`, `{"types":["*","%","_","\\","m.*.message",""]}`,
		`{"types":["\u0000","\ud800"],"senders":["\u0000"],"rooms":["\u0000"],"not_rooms":["!chat:x"]}`,
		`{"contains_url":1,"org.matrix.labels":["#a","\u0000"],"org.matrix.not_labels":[]}`,
		`{"related_by_senders":["@alice:x"],"related_by_rel_types":["m.thread","\u0000"]}`,
		`{"org.matrix.msc3874.rel_types":["m.thread"],"org.matrix.msc3874.not_rel_types":["m.replace"]}`,
		`{"lazy_load_members":true,"event_format":"federation"}`, `{"lazy_load_members":"x","event_format":{}}`,
		`{"limit":1e400,"types":[1e400]}`, `{"a":` + nested(10_000) + `}`, nested(100_000),
	} {
		add("dir=b&limit=1000", "", "", filter)
		add("raw=&limit=2", "t3-5", "", filter)
	}
	for _, more := range []string{
		"", "&", "dir=b;&raw", "limit=0", "limit=-1", "limit=" + most + "0", "limit=%31", "limit=1_0", "dir=b&limit=1&dir=x", "%zz=%&dir=f",
		"filter={}&from=s1&to=s0", "raw=&raw=&limit=1", "access_token=alice",
	} {
		add(more, "", "", "")
	}
	f.Fuzz(func(t *testing.T, reader byte, more, from, to, filter string) {
		query := more
		for name, value := range map[string]string{"from": from, "to": to, "filter": filter} {
			if value != "" {
				query += "&" + name + "=" + url.QueryEscape(value)
			}
		}
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		request.URL.Path, request.URL.RawQuery = chatV3, query
		token := "alice"
		switch reader % 3 {
		case 1:
			request.URL.Path, token = chatAdmin, admin
		case 2:
			request.URL.Path, token = chatContext+url.PathEscape(middle), admin
		}
		request.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)

		requireHeaders(t, w.Header())
		require.Less(t, w.Code, 500, w.Body)
		var answer map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), w.Body)
		require.Equal(t, w.Code == 200, answer["chunk"] != nil && answer["start"] != nil || answer["event"] != nil, w.Body)
		require.Equal(t, w.Code != 200, answer["errcode"] != nil && answer["error"] != nil, w.Body)
	})
}

// nested is a list in a list, and so on.
func nested(depth int) string {
	text := make([]byte, 0, 2*depth)
	for range depth {
		text = append(text, '[')
	}
	for range depth {
		text = append(text, ']')
	}
	return string(text)
}
