package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/migrate"
)

// TestPagesBesideAHomeserver lets users write and read in a room: they send by a running
// homeserver, and read pages by a Lethe on the same database, which also purges the room.
// It needs a homeserver that limits no rates, and runs only with these variables:
//
//	LETHE_BESIDE_DATABASE    the URL of the homeserver's database
//	LETHE_BESIDE_HOMESERVER  the homeserver's URL
//
// The variables LETHE_HOMESERVER_… and LETHE_SYNAPSE_… are those of Lethe.
func TestPagesBesideAHomeserver(t *testing.T) {
	database, homeserver := os.Getenv("LETHE_BESIDE_DATABASE"), strings.TrimRight(os.Getenv("LETHE_BESIDE_HOMESERVER"), "/")
	if database == "" || homeserver == "" {
		t.Skip("LETHE_BESIDE_DATABASE and LETHE_BESIDE_HOMESERVER are not set: see make test-beside")
	}
	f := newBeside(t, database, homeserver)
	writer, reader := f.users[0], f.users[1]
	room := f.toHomeserver(writer, http.MethodPost, "/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	f.toHomeserver(reader, http.MethodPost, "/join/"+url.PathEscape(room), map[string]any{})
	pages := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/messages"
	send := func(n int) string {
		path := fmt.Sprintf("/rooms/%s/send/m.room.message/%s.%d", url.PathEscape(room), t.Name(), n)
		return f.toHomeserver(writer, http.MethodPut, path, map[string]any{"msgtype": "m.text", "body": fmt.Sprint(n)})["event_id"].(string)
	}

	// What the homeserver has accepted is on the next page.
	const written, purged = 400, 350
	var sent []string
	for n := range written {
		sent = append(sent, send(n))
		_, page := f.as(reader).ask(http.MethodGet, pages+"?dir=b&limit=1", nil)
		require.Equal(t, sent[n], page["chunk"].([]any)[0].(map[string]any)["event_id"], "the last event")
	}
	f.requireSamePages(reader, pages)

	// Nothing that stays is missed, and nothing is seen twice, while Lethe purges and the
	// writer goes on.
	id := f.as(f.admin).purge(url.PathEscape(room), map[string]any{"purge_up_to_event_id": sent[purged], "delete_local_events": true})
	through := 0 // walks during which batches were purged
	for active := true; active; active = f.as(f.admin).status(id)["status"] == "active" {
		batches := f.batches(id)
		walk := f.as(reader).walk(pages, "f", 20)
		if f.batches(id) > batches {
			through++
		}
		require.True(t, isPartOf(sent[purged:], walk), "an event stays, and was not shown")
		once := slices.Clone(walk)
		slices.Sort(once)
		require.Len(t, slices.Compact(once), len(walk), "an event came twice")
		sent = append(sent, send(len(sent)))
	}
	f.as(f.admin).await(time.Minute, id)
	require.Positive(t, through)
	stays := f.as(reader).walk(pages, "f", 50)
	require.True(t, isPartOf(sent[purged:], stays))
	for _, event := range sent[:purged] {
		require.NotContains(t, stays, event)
	}
	f.requireSamePages(reader, pages)

	// Who leaves sees nothing after that from the next page on.
	f.toHomeserver(reader, http.MethodPost, "/rooms/"+url.PathEscape(room)+"/leave", map[string]any{})
	after := send(len(sent))
	require.NotContains(t, f.as(reader).walk(pages, "b", 100), after)
	require.Contains(t, f.as(writer).walk(pages, "b", 100), after)
}

// A beside is a fleet beside a running homeserver.
type beside struct {
	*fleet
	homeserver string
	admin      string   // an access token
	users      []string // those of others
}

// newBeside starts an api and a worker on the homeserver's database.
func newBeside(t *testing.T, database, homeserver string) *beside {
	t.Helper()
	b := &beside{homeserver: homeserver}
	require.NoError(t, migrate.Up(t.Context(), database))
	f := newFleetWith(t, database, devstacktest.Redis(t))
	b.fleet = f
	f.client = &http.Client{Timeout: time.Minute, Transport: http.DefaultTransport.(*http.Transport).Clone()}
	t.Cleanup(f.client.CloseIdleConnections)
	tokens := func(admin int) []string {
		return query[[]string](f, `
			SELECT array_agg(token ORDER BY name) FROM (
				SELECT DISTINCT ON (u.name) u.name, t.token FROM users u JOIN access_tokens t ON t.user_id = u.name
				WHERE u.admin = $1 AND u.deactivated = 0 AND u.is_guest = 0 AND u.appservice_id IS NULL AND NOT u.locked AND NOT u.suspended
				  AND t.puppets_user_id IS NULL AND t.valid_until_ms IS NULL
				ORDER BY u.name, t.id) t`, admin)
	}
	server := query[string](f, `SELECT split_part(name, ':', 2) FROM users WHERE admin = 1 LIMIT 1`)
	f.env = append(f.env, "LETHE_SERVER_NAME="+server, "LETHE_HOMESERVER_URL="+homeserver, "LETHE_WORKER_BATCH_EVENTS=2")
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "LETHE_HOMESERVER_") || strings.HasPrefix(variable, "LETHE_SYNAPSE_") {
			f.env = append(f.env, variable) // the last one counts
		}
	}
	admins := tokens(1)
	require.NotEmpty(t, admins, "no admin has an access token")
	b.admin, b.users = admins[0], tokens(0)
	require.GreaterOrEqual(t, len(b.users), 2, "two users need access tokens")
	f.api = f.start("api")
	f.start("worker")
	return b
}

// as returns the fleet that is asked with another access token.
func (b *beside) as(token string) *fleet {
	other := *b.fleet
	other.token = token
	return &other
}

// toHomeserver sends a request of the client API to the homeserver, which must accept it.
func (b *beside) toHomeserver(token, method, path string, body any) map[string]any {
	b.t.Helper()
	status, answer := b.homeserverAs(token).ask(method, "/_matrix/client/v3"+path, body)
	require.Equal(b.t, http.StatusOK, status, "%v", answer)
	return answer
}

// homeserverAs returns a fleet that asks the homeserver instead of the api.
func (b *beside) homeserverAs(token string) *fleet {
	other := b.as(token)
	scheme, address, _ := strings.Cut(b.homeserver, "://")
	other.scheme, other.api = scheme, &process{address: address}
	return other
}

// requireSamePages holds a walk by Lethe against one by the homeserver, and goes on with
// the page tokens of the one at the other.
func (b *beside) requireSamePages(token, pages string) {
	b.t.Helper()
	lethe, homeserver := b.as(token), b.homeserverAs(token)
	for _, dir := range []string{"f", "b"} {
		require.Equal(b.t, homeserver.walk(pages, dir, 30), lethe.walk(pages, dir, 30))
	}
	for _, servers := range [][2]*fleet{{lethe, homeserver}, {homeserver, lethe}} {
		_, first := servers[0].ask(http.MethodGet, pages+"?dir=b&limit=20", nil)
		from := url.QueryEscape(first["end"].(string))
		_, own := servers[0].ask(http.MethodGet, pages+"?dir=b&limit=20&from="+from, nil)
		_, others := servers[1].ask(http.MethodGet, pages+"?dir=b&limit=20&from="+from, nil)
		require.Equal(b.t, eventIDs(own), eventIDs(others), "the page after %s", first["end"])
	}
}

// eventIDs returns the ids of the events on a page.
func eventIDs(page map[string]any) (ids []any) {
	for _, event := range page["chunk"].([]any) {
		ids = append(ids, event.(map[string]any)["event_id"])
	}
	return ids
}
