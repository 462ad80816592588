package routing

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the top of the repository.
const root = "../.."

// read returns the text of a file of the repository.
func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(root + "/" + file)
	require.NoError(t, err)
	return string(text)
}

// documented returns the table of the documents.
func documented(t *testing.T) *Table {
	t.Helper()
	table, err := Documented(read(t, "docs/api.md"), read(t, "docs/routes.md"))
	require.NoError(t, err)
	return table
}

// known are requests whose backends are written here by hand.
var known = map[Backend][]string{
	Lethe: {
		"GET /_lethe/v1/holds", "HEAD /_lethe/v1/holds", "OPTIONS /_lethe/v1/holds", "PUT /_lethe/v1/holds/!r:x", "DELETE /_lethe/v1/unknown",
		"POST /_synapse/admin/v1/purge_history/!r:x", "POST /_synapse/admin/v1/purge_history/!r:x/$e",
		"POST /_synapse/admin/v1/purge_history/%21r%3Ax/%24e%2Ff", "OPTIONS /_synapse/admin/v1/purge_history/!r:x",
		"GET /_synapse/admin/v1/purge_history_status/x", "DELETE /_synapse/admin/v1/rooms/!r:x", "DELETE /_synapse/admin/v2/rooms/!r:x?",
		"GET /_synapse/admin/v2/rooms/!r:x/delete_status", "GET /_synapse/admin/v2/rooms/delete_status/x",
		"GET /_synapse/admin/v1/rooms", "GET /_synapse/admin/v1/rooms?limit=1", "GET /_synapse/admin/v1/rooms/", "GET /_synapse/admin/v1/rooms/!r:x/members",
		"GET /_synapse/admin/v1/rooms/!r:x/block", "GET /_synapse/admin/v1/rooms/!r:x/context/$e", "OPTIONS /_synapse/admin/v1/rooms/!r:x/block",
		"GET /_synapse/admin/v1/event_reports", "GET /_synapse/admin/v1/event_reports/7", "GET /_synapse/admin/v1/statistics/database/rooms",
		"GET /_matrix/client/v3/rooms/!r:x/messages", "HEAD /_matrix/client/api/v1/rooms/%21r/messages?dir=b",
		"GET /_matrix/client/unstable/org.matrix.msc1763/retention/configuration",
	},
	Either: {
		"GET /_matrix/client/versions", "POST /_matrix/client/v3/login", "GET /_matrix/client/r0/account/whoami", "GET /_synapse/admin/v3/users",
		"GET /_synapse/admin/v2/users/@a:x", "GET /_synapse/admin/v1/server_version", "OPTIONS /_matrix/client/v3/sync",
		"OPTIONS /_synapse/admin/v1/rooms/!r:x/make_room_admin", "OPTIONS /_lethe/v2/x",
	},
	Synapse: {
		"GET /_synapse/admin/v1/rooms/!r:x/state/more", "GET /_synapse/admin/v2/rooms", "GET /_synapse/admin/v2/users?next=/_synapse/admin/v1/rooms",
		"GET /_synapse/admin/v1/users/@a:x/admin", "GET /_matrix/client/v1/rooms/!r:x/messages", "GET /_matrix/client/v1/rooms/!r:x/hierarchy",
		"GET /_matrix/client/v3/login/sso/redirect", "GET /_matrix/client/v3/rooms/!r:x/event/$e", "GET /_matrix/client/v3/rooms/!r:x/messagesx",
		"GET /_matrix/client/v3/rooms/!r:x/messages/", "GET /_matrix/client/v3/rooms/!r:x/send/m.room.message/messages",
		"GET /_matrix/client/v3/sync?filter=/rooms/x/messages", "GET /_matrix/client/v3/sync?x=/account/whoami", "GET /_matrix/federation/v1/version",
		"GET /_matrix/client/v3/rooms/!r:x%2Fmessages", "GET /_matrix/client/v3/rooms/a/b/messages", "GET /_matrix/client/V3/rooms/!r:x/messages",
		"GET /_synapse/client/oidc/callback?code=x", "POST /_synapse/admin/v1/purge_media_cache?before_ts=1", "PATCH /_lethe/v1/holds",
		"POST /_synapse/admin/v1/rooms/!r:x/make_room_admin", "POST /_synapse/admin/v1/rooms/!r:x/delete", "PUT /_synapse/admin/v1/rooms/!r:x/block",
		"DELETE /_synapse/admin/v1/rooms/!r:x/forward_extremities", "POST /_synapse/admin/v1/room/!r:x/media/quarantine",
		"POST /_matrix/client/v3/rooms/!r:x/messages", "POST /_matrix/client/v3/logout", "PUT /_synapse/admin/v2/users/@a:x",
		"PUT /_synapse/admin/v1/rooms/!r:x", "DELETE /_synapse/admin/v1/event_reports/7", "DELETE /_synapse/admin/v1/purge_history_status/x",
		"GET /_lethe/v2/holds", "GET /_synapse/admin//v1/rooms", "GET /_matrix/client/r%30/rooms/!r:x/messages",
	},
	Outside: {
		"GET /metrics", "GET /healthz", "GET /readyz", "GET /", "GET /_lethe", "GET /_lethe-other/v1/holds", "GET /_lethe-x",
		"GET /x/_lethe/v1/holds", "GET /_LETHE/v1/holds", "GET /asynqmon", "GET /.well-known/matrix/client", "OPTIONS /metrics", "GET /_synapse/metrics",
	},
}

// TestTableSaysWhatIsKnown compares the table that is read from the documents with requests
// whose backends are known.
func TestTableSaysWhatIsKnown(t *testing.T) {
	t.Parallel()
	table := documented(t)
	for backend, requests := range known {
		for _, request := range requests {
			method, uri, _ := strings.Cut(request, " ")
			require.Equal(t, backend, table.Backend(method, uri), request)
		}
	}
}

// TestDocumentsMustAgree tests that a route of one document which the other does not have
// is an error.
func TestDocumentsMustAgree(t *testing.T) {
	t.Parallel()
	api, routes := read(t, "docs/api.md"), read(t, "docs/routes.md")
	for name, texts := range map[string][2]string{
		"docs/routes.md does not say where GET /_synapse/admin/v1/new goes":                    {api + "\n### `GET /_synapse/admin/v1/new`\n", routes},
		"docs/routes.md does not say where GET /_synapse/admin/v1/fetch_event/{event_id} goes": {api, strings.Replace(routes, "`GET …/v1/fetch_event/{event_id}`", "", 1)},
		"docs/api.md does not describe \"GET …/v1/fetch_event/{id}\" of docs/routes.md":        {api, strings.Replace(routes, "…/v1/fetch_event/{event_id}", "…/v1/fetch_event/{id}", 1)},
		"docs/routes.md says twice where PUT /_synapse/admin/v1/rooms/{room_id}/block goes":    {api, strings.Replace(routes, "`GET …/v1/scheduled_tasks`", "`GET …/v1/scheduled_tasks`, `PUT …/block`", 1)},
		"docs/routes.md has no section \"What Lethe answers\"":                                 {api, strings.ReplaceAll(routes, "## What Lethe answers", "## x")},
		"the section \"While Synapse is down\" of docs/routes.md names no request":             {api, routes[:strings.Index(routes, "\n## While Synapse is down\n")] + "\n## While Synapse is down\n"},
		"docs/api.md describes no request":                                                     {"", routes},
	} {
		_, err := Documented(texts[0], texts[1])
		require.EqualError(t, err, name)
	}
}
