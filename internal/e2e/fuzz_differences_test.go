package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
)

// A readDifference is a difference between the answers to one query.
type readDifference struct {
	f           *readFuzz
	user        fuzzUser
	path, query string
	values      url.Values

	wantStatus, gotStatus int
	want, got             any
}

// differences are the differences that docs/api.md names, in its order.
var differences = []struct {
	name string
	is   func(d *readDifference) bool
}{
	{"sizes of rooms", func(d *readDifference) bool { return d.isFailure("/statistics/database/rooms") }},
	{"spaces with rooms of other servers", func(d *readDifference) bool { return d.isFailure("/hierarchy") }},
	{"Lethe's own jobs", func(d *readDifference) bool {
		if !strings.HasSuffix(d.path, "/scheduled_tasks") {
			return false
		}
		var tasks []any
		for _, task := range list(d.got, "scheduled_tasks") {
			if id, _ := task.(map[string]any)["id"].(string); !d.f.purges[id] {
				tasks = append(tasks, task)
			}
		}
		return gocmp.Equal(list(d.want, "scheduled_tasks"), tasks, cmpopts.EquateEmpty())
	}},
	{"unknown writers", func(d *readDifference) bool {
		from, to := d.values.Get("from"), d.values.Get("to")
		return d.wantStatus == http.StatusBadRequest && (strings.HasPrefix(from, "m") || strings.HasPrefix(to, "m"))
	}},
	{"an empty filter", func(d *readDifference) bool {
		return d.wantStatus == http.StatusBadRequest && d.values.Has("filter") && d.values.Get("filter") == ""
	}},
	{"a filter that is no object", func(d *readDifference) bool {
		var filter any
		err := json.Unmarshal([]byte(d.values.Get("filter")), &filter)
		_, isObject := filter.(map[string]any)
		return d.wantStatus == http.StatusInternalServerError && d.gotStatus == http.StatusBadRequest && err == nil && !isObject
	}},
	{"the state of an outlier", func(d *readDifference) bool {
		return strings.Contains(d.path, "/context/") && d.wantStatus == http.StatusInternalServerError && d.gotStatus == http.StatusOK &&
			len(list(d.got, "events_after")) == 0 && len(list(d.got, "state")) == 0
	}},
	{"a number that is too large", func(d *readDifference) bool {
		// The text of a refusal has the number.
		return (d.wantStatus == http.StatusInternalServerError || d.wantStatus == d.gotStatus) &&
			d.gotStatus < http.StatusInternalServerError && strings.Contains(d.query, "=99999999999999999999")
	}},
	{"ranges of pages", func(d *readDifference) bool {
		return d.isPage() && d.values.Get("to") != "" && len(list(d.want, "chunk")) == 0
	}},
	{"after a leave", func(d *readDifference) bool {
		return d.isPage() && d.values.Get("dir") != "b" && d.f.departed[d.user.id+d.room()] &&
			len(list(d.got, "chunk")) <= len(list(d.want, "chunk")) // both are empty if the filter leaves nothing
	}},
	{"redacted twice", func(d *readDifference) bool {
		for _, answer := range []any{d.want, d.got} {
			forgetKeys(answer, "redacted_because", "redacted_by")
		}
		return gocmp.Equal(d.want, d.got)
	}},
	{"around an event", (*readDifference).isAroundAnEvent},
	{"rooms in a filter", func(d *readDifference) bool {
		if !strings.Contains(d.values.Get("filter"), `rooms"`) {
			return false
		}
		for _, answer := range []any{d.want, d.got} {
			object, _ := answer.(map[string]any)
			for _, key := range []string{"chunk", "events_before", "events_after", "state"} {
				object[key] = slices.DeleteFunc(list(answer, key), func(event any) bool {
					return event.(map[string]any)["type"] == "m.room.create"
				})
			}
			delete(object, "start") // see around an event
		}
		return d.wantStatus == d.gotStatus && gocmp.Equal(d.want, d.got, cmpopts.EquateEmpty())
	}},
	{"an unreadable event near a time", func(d *readDifference) bool {
		want, _ := d.want.(map[string]any)
		text, _ := want["error"].(string)
		return strings.HasSuffix(d.path, "/timestamp_to_event") && d.wantStatus == http.StatusNotFound &&
			d.gotStatus == http.StatusOK && strings.HasPrefix(text, "Could not find event ")
	}},
	{"an event of another room", func(d *readDifference) bool {
		want, _ := d.want.(map[string]any)
		return d.wantStatus == http.StatusNotFound && d.gotStatus == http.StatusNotFound && want["error"] == "No row found (events)"
	}},
	{"search and filter", func(d *readDifference) bool {
		return strings.HasSuffix(d.path, "/admin/v1/rooms") && d.values.Has("search_term") &&
			(d.values.Has("public_rooms") || d.values.Has("empty_rooms"))
	}},
	{"statuses of the homeserver's own tasks", func(d *readDifference) bool {
		if !strings.Contains(d.path, "_status/") {
			return false
		}
		want, got := d.want.(map[string]any), d.got.(map[string]any)
		if want["shutdown_room"] == nil {
			delete(want, "shutdown_room")
			delete(got, "shutdown_room")
		}
		if got["status"] == "failed" {
			delete(got, "error")
			if want["status"] == "active" || want["status"] == "cancelled" {
				want["status"] = "failed" // it is cancelled
			}
		}
		delete(want, "error")
		return gocmp.Equal(want, got)
	}},
}

// isAroundAnEvent reports whether Lethe's context has more events before the event: those of
// the same depth, and those one level below that arrived after it. The homeserver goes
// back from the level below, and leaves them out.
func (d *readDifference) isAroundAnEvent() bool {
	if !strings.Contains(d.path, "/context/") || d.wantStatus != http.StatusOK || d.gotStatus != http.StatusOK {
		return false
	}
	want, got := d.want.(map[string]any), d.got.(map[string]any)
	forgetKeys(want, "redacted_because", "redacted_by") // see redacted twice
	forgetKeys(got, "redacted_because", "redacted_by")
	at := d.f.eventOf(want["event"])
	isBeside := func(e fuzzEvent) bool {
		return e.topological == at.topological && e.place < at.place || e.topological == at.topological-1 && e.place > at.place
	}
	common := slices.DeleteFunc(slices.Clone(list(got, "events_before")), func(event any) bool { return isBeside(d.f.eventOf(event)) })
	before := list(want, "events_before")
	if len(common) > len(before) || len(common) < len(before) && !slices.ContainsFunc(d.f.eventsOf(d.room()), isBeside) {
		return false
	}
	for i := range common {
		if !gocmp.Equal(common[i], before[i]) {
			return false
		}
	}
	for _, answer := range []map[string]any{want, got} {
		delete(answer, "events_before")
		delete(answer, "start")
		if strings.Contains(d.values.Get("filter"), "lazy_load_members") && len(common) < len(before) {
			delete(answer, "state") // of other senders
		}
	}
	return gocmp.Equal(want, got)
}

// eventsOf returns the events of a room.
func (f *readFuzz) eventsOf(room string) []fuzzEvent {
	i := slices.IndexFunc(f.rooms, func(r fuzzRoom) bool { return r.id == room })
	if i < 0 {
		return nil
	}
	return f.rooms[i].events
}

// eventOf returns what is known of an event in an answer.
func (f *readFuzz) eventOf(event any) fuzzEvent {
	object, _ := event.(map[string]any)
	id, _ := object["event_id"].(string)
	return f.byID[id]
}

// nameOf returns the name of a difference, "" for one that docs/api.md does not name.
func (f *readFuzz) nameOf(user fuzzUser, path string, wantStatus int, want []byte, gotStatus int, got []byte) string {
	path, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return ""
	}
	for _, difference := range differences {
		if difference.is(&readDifference{
			f: f, user: user, path: path, query: query, values: values,
			wantStatus: wantStatus, gotStatus: gotStatus, want: settledRead(want), got: settledRead(got),
		}) {
			return difference.name
		}
	}
	return ""
}

// isFailure reports whether the homeserver alone fails for a path with this end.
func (d *readDifference) isFailure(end string) bool {
	return strings.HasSuffix(d.path, end) && d.wantStatus == http.StatusInternalServerError && d.gotStatus == http.StatusOK
}

func (d *readDifference) isPage() bool {
	return strings.HasSuffix(d.path, "/messages") && d.wantStatus == http.StatusOK && d.gotStatus == http.StatusOK
}

// room returns the id of the room in the path.
func (d *readDifference) room() string {
	_, rest, _ := strings.Cut(d.path, "/rooms/")
	id, _, _ := strings.Cut(rest, "/")
	id, _ = url.PathUnescape(id)
	return id
}

// list returns a list of an answer.
func list(answer any, key string) []any {
	object, _ := answer.(map[string]any)
	values, _ := object[key].([]any)
	return values
}

// forgetKeys deletes keys from all objects of an answer.
func forgetKeys(value any, keys ...string) {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range keys {
			delete(value, key)
		}
		for _, inner := range value {
			forgetKeys(inner, keys...)
		}
	case []any:
		for _, inner := range value {
			forgetKeys(inner, keys...)
		}
	}
}

func TestDocumentNamesEveryDifference(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/api.md")
	require.NoError(t, err)
	for _, difference := range differences {
		require.Contains(t, string(document), "| "+difference.name+" |")
	}
}
