package e2e_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestReadsAreTheHomeservers sends the same random queries to a Lethe and to a homeserver
// on the same database, and compares the answers. It runs only with these variables:
//
//	LETHE_FUZZ_DATABASE    the URL of the database; each of its users needs an access token
//	LETHE_FUZZ_LETHE       the URL of Lethe's api, which must have no homeserver.url
//	LETHE_FUZZ_HOMESERVER  the homeserver's URL
//	LETHE_FUZZ_QUERIES     the number of queries, 2,000 by default
//	LETHE_FUZZ_SEED        a number, to repeat a run; random by default
//
// With both of the next ones it stops the homeserver, lets Lethe purge the history of some
// rooms, starts the homeserver again and compares once more:
//
//	LETHE_FUZZ_STOP        a command that stops the homeserver
//	LETHE_FUZZ_START       a command that starts it, and returns when it answers
//
// A difference that docs/api.md names is counted, and any other fails the test.
func TestReadsAreTheHomeservers(t *testing.T) {
	settings := map[string]string{}
	for _, name := range []string{"DATABASE", "LETHE", "HOMESERVER"} {
		value := os.Getenv("LETHE_FUZZ_" + name)
		if value == "" {
			t.Skipf("LETHE_FUZZ_%s is not set: see make fuzz-reads", name)
		}
		settings[name] = strings.TrimRight(value, "/")
	}
	queries := numberOf(t, "LETHE_FUZZ_QUERIES", 2000)
	seed := numberOf(t, "LETHE_FUZZ_SEED", rand.Int64())
	t.Logf("LETHE_FUZZ_SEED=%d", seed)
	f := &readFuzz{
		t: t, lethe: settings["LETHE"], homeserver: settings["HOMESERVER"], random: rand.New(rand.NewPCG(uint64(seed), 0)),
		client: &http.Client{Timeout: time.Minute, Transport: http.DefaultTransport.(*http.Transport).Clone()},
	}
	t.Cleanup(f.client.CloseIdleConnections)
	f.readWorld(settings["DATABASE"])
	f.compare(queries, "before purges")
	stop, start := os.Getenv("LETHE_FUZZ_STOP"), os.Getenv("LETHE_FUZZ_START")
	if stop == "" || start == "" {
		t.Log("not compared after purges: LETHE_FUZZ_STOP and LETHE_FUZZ_START are not set")
		return
	}
	f.run(stop)
	f.purge()
	f.run(start)
	f.compare(queries, "after purges")
}

func numberOf(t *testing.T, name string, byDefault int64) int64 {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return byDefault
	}
	n, err := strconv.ParseInt(value, 10, 64)
	require.NoError(t, err, name)
	return n
}

// A readFuzz compares two servers.
type readFuzz struct {
	t                 *testing.T
	lethe, homeserver string
	client            *http.Client
	random            *rand.Rand

	rooms   []fuzzRoom
	users   []fuzzUser
	admin   fuzzUser
	reports []string
	tasks   []string

	// byID has the events of all rooms.
	byID map[string]fuzzEvent

	// departed has the users who have left a room, each as the user's and the room's id.
	departed map[string]bool

	// purges has the ids of Lethe's own jobs.
	purges map[string]bool

	// pages are page tokens that the homeserver has answered with.
	pages []string

	// named counts the differences that docs/api.md names.
	named map[string]int
}

type fuzzRoom struct {
	id     string
	events []fuzzEvent
}

type fuzzEvent struct {
	id, kind, sender   string
	topological, place int64
	ts                 int64
}

type fuzzUser struct{ id, token string }

// readWorld reads from the database what queries can ask for.
func (f *readFuzz) readWorld(database string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, database)
	require.NoError(f.t, err)
	defer func() { require.NoError(f.t, conn.Close(ctx)) }()
	each := func(sql string, scan []any, do func()) {
		f.t.Helper()
		rows, err := conn.Query(ctx, sql)
		require.NoError(f.t, err)
		_, err = pgx.ForEachRow(rows, scan, func() error { do(); return nil })
		require.NoError(f.t, err)
	}
	var room, text string
	var event fuzzEvent
	f.byID = map[string]fuzzEvent{}
	byRoom := map[string]*fuzzRoom{}
	each(`SELECT room_id FROM rooms ORDER BY 1`, []any{&room}, func() { byRoom[room] = &fuzzRoom{id: room} })
	each(`SELECT room_id, event_id, type, coalesce(sender, ''), topological_ordering, stream_ordering, coalesce(origin_server_ts, 0)
		FROM events WHERE stream_ordering IS NOT NULL ORDER BY stream_ordering`,
		[]any{&room, &event.id, &event.kind, &event.sender, &event.topological, &event.place, &event.ts}, func() {
			f.byID[event.id] = event
			if r := byRoom[room]; r != nil {
				r.events = append(r.events, event)
			}
		})
	for _, id := range slices.Sorted(maps.Keys(byRoom)) {
		f.rooms = append(f.rooms, *byRoom[id])
	}
	var user fuzzUser
	var admin bool
	each(`SELECT DISTINCT ON (u.name) u.name, t.token, u.admin = 1 FROM users u JOIN access_tokens t ON t.user_id = u.name
		WHERE t.puppets_user_id IS NULL AND u.deactivated = 0 AND NOT u.locked ORDER BY u.name, t.id`,
		[]any{&user.id, &user.token, &admin}, func() {
			f.users = append(f.users, user)
			if admin {
				f.admin = user
			}
		})
	f.departed = map[string]bool{}
	each(`SELECT user_id, room_id FROM local_current_membership WHERE membership = 'leave'`, []any{&user.id, &room},
		func() { f.departed[user.id+room] = true })
	f.purges = map[string]bool{}
	each(`SELECT id FROM lethe.jobs`, []any{&text}, func() { f.purges[text] = true })
	each(`SELECT id::text FROM event_reports ORDER BY id`, []any{&text}, func() { f.reports = append(f.reports, text) })
	each(`SELECT id FROM scheduled_tasks ORDER BY id`, []any{&text}, func() { f.tasks = append(f.tasks, text) })
	require.NotEmpty(f.t, f.rooms)
	require.NotEmpty(f.t, f.admin.token, "the database has no server admin with an access token")
}

// run runs a command of the operator.
func (f *readFuzz) run(command string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput()
	require.NoError(f.t, err, "%s: %s", command, output)
}

// purge purges half of the history of every second room, by Lethe.
func (f *readFuzz) purge() {
	f.t.Helper()
	const path = "/_synapse/admin/v1/purge_history"
	for i, room := range f.rooms {
		if i%2 == 1 || len(room.events) < 4 {
			continue
		}
		body, err := json.Marshal(map[string]any{
			"purge_up_to_event_id": room.events[len(room.events)/2].id, "delete_local_events": i%4 == 0,
		})
		require.NoError(f.t, err)
		status, answer := f.send(f.lethe, http.MethodPost, path+"/"+url.PathEscape(room.id), f.admin.token, body)
		if status == http.StatusNotFound {
			continue // the event was rejected
		}
		require.Equal(f.t, 200, status, "%s", answer)
		var accepted struct {
			ID string `json:"purge_id"`
		}
		require.NoError(f.t, json.Unmarshal(answer, &accepted))
		f.purges[accepted.ID] = true
		require.Eventually(f.t, func() bool {
			_, answer := f.send(f.lethe, http.MethodGet, path+"_status/"+accepted.ID, f.admin.token, nil)
			require.NotContains(f.t, string(answer), "failed")
			return strings.Contains(string(answer), "complete")
		}, 2*time.Minute, 50*time.Millisecond, "the purge of %s is not complete: does a worker run?", room.id)
	}
}

// compare sends queries to both servers.
func (f *readFuzz) compare(queries int64, when string) {
	f.t.Helper()
	f.named = map[string]int{}
	statuses, failures := map[int]int{}, 0
	for n := range queries {
		user, path := f.query()
		wantStatus, want := f.send(f.homeserver, http.MethodGet, path, user.token, nil)
		for wait := 0; wantStatus == http.StatusTooManyRequests && wait < 50; wait++ {
			time.Sleep(100 * time.Millisecond) // the homeserver's rate limit, which Lethe does not have
			wantStatus, want = f.send(f.homeserver, http.MethodGet, path, user.token, nil)
		}
		gotStatus, got := f.send(f.lethe, http.MethodGet, path, user.token, nil)
		statuses[gotStatus]++
		f.remember(want)
		difference := differenceOf(wantStatus, want, gotStatus, got)
		if difference == "" {
			continue
		}
		if name := f.nameOf(user, path, wantStatus, want, gotStatus, got); name != "" {
			f.named[name]++
			continue
		}
		f.t.Errorf("query %d %s, as %s: %s\nhomeserver %d, Lethe %d\n%s", n, when, user.id, path, wantStatus, gotStatus, difference)
		if failures++; failures == 20 {
			f.t.Fatal("too many differences")
		}
	}
	f.t.Logf("%s: %d queries, answers by status %v, named differences %v", when, queries, statuses, f.named)
}

// send sends a request and reads the answer.
func (f *readFuzz) send(server, method, path, token string, body []byte) (int, []byte) {
	f.t.Helper()
	request, err := http.NewRequestWithContext(f.t.Context(), method, server+path, bytes.NewReader(body))
	require.NoError(f.t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := f.client.Do(request)
	require.NoError(f.t, err)
	answer, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	require.NoError(f.t, response.Body.Close())
	return response.StatusCode, answer
}

// remember keeps the page tokens of an answer.
func (f *readFuzz) remember(answer []byte) {
	var page struct{ Start, End string }
	if json.Unmarshal(answer, &page) != nil {
		return
	}
	for _, token := range []string{page.Start, page.End} {
		if token != "" {
			f.pages = append(f.pages, token)
		}
	}
	if len(f.pages) > 200 {
		f.pages = slices.Delete(f.pages, 0, len(f.pages)-200)
	}
}

// differenceOf returns the difference between two answers, "" if they are equal.
func differenceOf(wantStatus int, want []byte, gotStatus int, got []byte) string {
	if wantStatus != gotStatus {
		return fmt.Sprintf("- %.300s\n+ %.300s", want, got)
	}
	return gocmp.Diff(settledRead(want), settledRead(got))
}

// padding ends a page token. The homeserver adds zeros up to the number of its streams.
var padding = regexp.MustCompile(`(_0)+$`)

// settledRead leaves out of an answer what changes by itself or has no order.
func settledRead(answer []byte) any {
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return string(answer)
	}
	return settleRead("", value)
}

func settleRead(key string, value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name := range value {
			value[name] = settleRead(name, value[name])
		}
		if event, ok := value["event"].(map[string]any); ok && len(value) == 1 {
			forgetReplaced([]any{event})
		}
		delete(value, "age")
		delete(value, "last_seen_ts") // the homeserver writes it some seconds later
		for _, name := range []string{"start", "end"} {
			if token, ok := value[name].(string); ok {
				value[name] = padding.ReplaceAllString(token, "")
			}
		}
		if token, ok := value["next_batch"].(string); ok && token != "" {
			value["next_batch"] = "a token" // of a space, which only its server knows
		}
	case []any:
		for i := range value {
			value[i] = settleRead("", value[i])
		}
		if key == "state" {
			forgetReplaced(value)
		}
		if key == "members" || key == "state" || key == "results" {
			slices.SortFunc(value, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	return value
}

// forgetReplaced leaves out of state events the content that they replaced. The homeserver
// shows it if it has the event in its cache with that content, which is a matter of chance.
func forgetReplaced(events []any) {
	for _, event := range events {
		if event, ok := event.(map[string]any); ok {
			delete(event, "prev_content")
			if unsigned, ok := event["unsigned"].(map[string]any); ok {
				delete(unsigned, "prev_content")
				delete(unsigned, "prev_sender")
			}
		}
	}
}
