package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/store/migrate"
)

// TestRecordedAdminReads asks what a real Synapse 1.160 was asked over the corpus and the
// rows in testdata/reads/rows.sql.gz: what it had written itself when a client made a
// space, sent media, reported events, registered users, and purged and deleted rooms.
func TestRecordedAdminReads(t *testing.T) {
	t.Parallel()
	handler, tokens := recordedLab(t)
	asked := map[string]int{}
	for _, r := range recordedAnswers(t) {
		kind := kindOf(r.Path)
		if kind == "" {
			continue
		}
		asked[kind]++
		w := ask(t, handler, r.Path, tokens[r.User])
		want, intended := intendedAnswers[kind+" "+lastOf(r.Path)]
		if !intended || r.User != "@admin:lab.test" {
			want.status, want.body = r.Status, string(r.Body)
		}
		if kind == "login" && r.Status == http.StatusOK {
			// As of a Synapse whose password_config.enabled is false.
			want.body = `{"flows":[{"type":"m.login.application_service"}]}`
		}
		require.Equal(t, want.status, w.Code, "%s %s: %s", r.User, r.Path, w.Body)
		if want.body == "" {
			continue
		}
		if diff := gocmp.Diff(settledAnswer(t, []byte(want.body)), settledAnswer(t, w.Body.Bytes())); diff != "" {
			t.Errorf("%s %s\n%s", r.User, r.Path, diff)
		}
	}
	require.Equal(t, map[string]int{
		"fetch_event": 34, "event_reports": 50, "hierarchy": 56, "media": 16, "statistics": 2,
		"scheduled_tasks": 15, "purge_history_status": 5, "delete_status": 9,
		"server_version": 1, "v2/users": 24, "v3/users": 67, "versions": 3, "login": 6,
	}, asked)
}

// intendedAnswers are Lethe's answers where they are meant to differ, by the kind of
// request and the end of its path. An answer without a body only has a status. Synapse
// fails with 500 for all of these, but for the statuses.
var intendedAnswers = map[string]struct {
	status int
	body   string
}{
	"fetch_event \x00":                       {404, refusal("M_NOT_FOUND", "Event not found")},
	"hierarchy !unknown:lab.test":            {200, `{"rooms":[]}`},
	"hierarchy x":                            {200, `{"rooms":[]}`},
	"hierarchy ":                             {200, `{"rooms":[]}`},
	"hierarchy !WiAKpWqOtGVLXgxZaq:lab.test": {200, `{"rooms":[]}`}, // all users have left
	"v2/users @a\x00:lab.test":               {404, refusal("M_NOT_FOUND", "User not found")},
	"media \x00":                             {200, `{"local":[],"remote":[]}`},
	"statistics ":                            {200, ""},

	"purge_history_status CancelledPurgeCa":      {200, `{"status":"failed","error":"cancelled"}`},
	"delete_status FailedDeleteFail":             {200, failedTask},
	"delete_status CompletePurgeRoo":             {200, completeTask},
	"delete_status LaterPurgeRoomLa":             {200, `{"delete_id":"LaterPurgeRoomLa","room_id":"!hKLkfkSsmEZAGMWCxD:lab.test","status":"scheduled","shutdown_room":` + noShutdown + `}`},
	"delete_status !hKLkfkSsmEZAGMWCxD:lab.test": {200, `{"results":[` + failedTask + `,` + completeTask + `]}`},
}

// Of a delete in Synapse's queue Lethe says why it failed, and shutdown_room is never null.
const (
	noShutdown = `{"kicked_users":[],"failed_to_kick_users":[],"local_aliases":[],"new_room_id":null}`
	failedTask = `{"delete_id":"FailedDeleteFail","room_id":"!hKLkfkSsmEZAGMWCxD:lab.test","status":"failed","shutdown_room":` +
		noShutdown + `,"error":"400: Users are still joined to this room"}`
	completeTask = `{"delete_id":"CompletePurgeRoo","room_id":"!hKLkfkSsmEZAGMWCxD:lab.test","status":"complete","shutdown_room":` + noShutdown + `}`
)

// kindOf returns the kind of request that a path asks, "" for one that is not tested yet.
func kindOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	for kind, part := range map[string]string{
		"fetch_event": "/v1/fetch_event/", "event_reports": "/v1/event_reports", "statistics": "/v1/statistics/",
		"scheduled_tasks": "/v1/scheduled_tasks", "purge_history_status": "/v1/purge_history_status/", "delete_status": "/delete_status",
		"server_version": "/v1/server_version", "v2/users": "/v2/users/", "v3/users": "/v3/users", "versions": "/client/versions",
	} {
		if strings.Contains(path, part) {
			return kind
		}
	}
	for _, kind := range []string{"hierarchy", "media", "login"} {
		if strings.HasSuffix(path, "/"+kind) {
			return kind
		}
	}
	return ""
}

// lastOf returns the id in a path, "" if it has none.
func lastOf(path string) string {
	path, query, _ := strings.Cut(path, "?")
	if query != "" {
		return query
	}
	for _, folder := range []string{"/rooms/delete_status/", "/rooms/", "/room/", "/fetch_event/", "/purge_history_status/", "/users/"} {
		if _, id, ok := strings.Cut(path, folder); ok {
			id, _, _ = strings.Cut(id, "/")
			id, _ = url.PathUnescape(id)
			return id
		}
	}
	return ""
}

// settledAnswer is requireSettled without what only the recorded server can know: when it
// last saw the users who asked it, and the text of a page token of a space.
func settledAnswer(t *testing.T, body []byte) any {
	t.Helper()
	value := requireSettled(t, body)
	if object, ok := value.(map[string]any); ok {
		if _, ok := object["next_batch"].(string); ok {
			object["next_batch"] = "a token"
		}
		forgetAskers(object)
		users, _ := object["users"].([]any)
		for _, user := range users {
			forgetAskers(user.(map[string]any))
		}
	}
	return value
}

// forgetAskers leaves out when a user who has asked the recorded server was last seen.
func forgetAskers(user map[string]any) {
	switch user["name"] {
	case "@admin:lab.test", "@alice:lab.test", "@bob:lab.test", "@carol:lab.test":
		delete(user, "last_seen_ts")
	}
}

// recordedLab returns Lethe's API over the database of the recordings, and the access
// tokens of its users.
func recordedLab(t *testing.T) (http.Handler, map[string]string) {
	t.Helper()
	database := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
	require.NoError(t, migrate.Up(t.Context(), database))
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), string(unzipped(t, "rows.sql.gz")))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `ANALYZE`)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	db := openStore(t, database)

	raw, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "corpus.json"))
	require.NoError(t, err)
	var corpus struct {
		Admin string
		Users map[string]string
	}
	require.NoError(t, json.Unmarshal(raw, &corpus))
	corpus.Users["@admin:lab.test"], corpus.Users["wrong"] = corpus.Admin, "wrong"
	return httpapi.New(db, &submitter{}, board{}, httpapi.Options{
		ServerName: "lab.test", Log: slog.New(slog.DiscardHandler),
	}), corpus.Users
}

// ask sends a GET request to the handler, without a token if it is "".
func ask(t *testing.T, handler http.Handler, path, token string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, request)
	return w
}

func recordedAnswers(t *testing.T) []recordedRead {
	t.Helper()
	return decodeReads(t, bytes.NewReader(unzipped(t, "answers.jsonl.gz")))
}

// unzipped reads a file of testdata/reads.
func unzipped(t *testing.T, name string) []byte {
	t.Helper()
	file, err := os.Open(filepath.Join("testdata", "reads", name))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	reader, err := gzip.NewReader(file)
	require.NoError(t, err)
	text, err := io.ReadAll(reader)
	require.NoError(t, err)
	return text
}
