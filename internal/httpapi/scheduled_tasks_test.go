package httpapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const scheduledTasks = "/_synapse/admin/v1/scheduled_tasks"

// taskJobs are jobs whose times are counted from the beginning of yesterday, so
// that they are neither too old nor to come.
const taskJobs = `
	WITH day AS (SELECT date_trunc('day', now()) - interval '1 day' AS began)
	INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, checkpoint, heartbeat_at, error, updated_at, ended_at)
	SELECT rpad(id, 16, 'x'), kind, room, '{}', '@admin:x', state, checkpoint::jsonb, CASE WHEN state = 'running' THEN now() END,
		error, began + at, CASE WHEN state IN ('complete', 'failed', 'cancelled') THEN began + at END
	FROM day, (VALUES
		('a', 'purge_history', '!one:x', 'queued', NULL, NULL, interval '6 s'),
		('b', 'delete_room', '!one:x', 'running', '{"shutdown_room": {"kicked_users": ["@a:x"]}, "step": 3}', NULL, interval '5 s'),
		('c', 'delete_room', '!two:x', 'failed', '{"step": 1}', 'it <broke>', interval '4 s'),
		('d', 'delete_room', '!two:x', 'complete', '{"shutdown_room": null}', NULL, interval '3 s'),
		('e', 'purge_history', '!two:x', 'cancelled', '{"batches": 7}', NULL, interval '2.0009 s'),
		('f', 'retention_sweep', '', 'complete', '{"after": "!z:x", "sweep": {"rooms": 7}}', NULL, interval '1 s'),
		('g', 'purge_history', '!old:x', 'complete', NULL, NULL, interval '-7 days'),
		('h', 'purge_history', '!old:x', 'complete', '[]', NULL, interval '-4 days'),
		('i', 'delete_room', '!old:x', 'queued', NULL, NULL, interval '-90 days'),
		('j', 'purge_history', '!old:x', 'complete', NULL, NULL, interval '-4 days')
	) AS j (id, kind, room, state, checkpoint, error, at)`

func TestScheduledTasks(t *testing.T) {
	t.Parallel()
	b, conn := setupWith(t, taskJobs)
	var began int64
	require.NoError(t, conn.QueryRow(t.Context(), `
		SELECT extract(epoch FROM updated_at - interval '6 s')::bigint * 1000 FROM lethe.jobs WHERE id LIKE 'a%'`).Scan(&began))
	const day = 24 * 60 * 60 * 1000
	task := func(id, action, status string, at int64, room, result, failure string) string {
		if room = fmt.Sprintf("%q", room); room == `""` {
			room = "null"
		}
		return fmt.Sprintf(`{"id":"%s","action":%q,"status":%q,"timestamp_ms":%d,"resource_id":%s,"result":%s,"error":%s}`,
			id+strings.Repeat("x", 15), action, status, began+at, room, result, failure)
	}
	a := task("a", "purge_history", "scheduled", 6000, "!one:x", "null", "null")
	running := task("b", "shutdown_and_purge_room", "active", 5000, "!one:x", `{"kicked_users":["@a:x"]}`, "null")
	failed := task("c", "shutdown_and_purge_room", "failed", 4000, "!two:x", "null", `"it <broke>"`)
	complete := task("d", "shutdown_and_purge_room", "complete", 3000, "!two:x", "null", "null")
	cancelled := task("e", "purge_history", "cancelled", 2000, "!two:x", "null", "null")
	recent := task("h", "purge_history", "complete", -4*day, "!old:x", "null", "null")
	recentToo := task("j", "purge_history", "complete", -4*day, "!old:x", "null", "null")
	waiting := task("i", "shutdown_and_purge_room", "scheduled", -90*day, "!old:x", "null", "null")
	sweep := task("f", "retention_sweep", "complete", 1000, "", `{"rooms":7}`, "null")
	all := []string{waiting, recent, recentToo, sweep, cancelled, complete, failed, running, a}
	ofRooms := []string{waiting, recent, recentToo, cancelled, complete, failed, running, a}

	for query, want := range map[string][]string{
		"":                                     all,
		"?x=y":                                 all,
		"?from=5&limit=1&order_by=id&dir=b":    all, // as Ketesa asks
		"?action_name=purge_history":           {recent, recentToo, cancelled, a},
		"?action_name=shutdown_and_purge_room": {waiting, complete, failed, running},
		"?action_name=shutdown_and_purge_room&action_name=x":             {waiting, complete, failed, running},
		"?action_name=purge_history&action_name=shutdown_and_purge_room": ofRooms,
		"?action_name=retention_sweep":                                   {sweep},
		"?action_name=purge_room":                                        {},
		"?action_name=delete_room":                                       {},
		"?action_name=":                                                  {},
		"?action_name":                                                   all,
		"?resource_id=!two:x":                                            {cancelled, complete, failed},
		"?resource_id=%21two%3Ax&resource_id=!one:x":                     {cancelled, complete, failed},
		"?resource_id=":                                                  all,
		"?resource_id=%00":                                               {},
		"?status=active":                                                 {running},
		"?status=scheduled":                                              {waiting, a},
		"?status=failed&status=complete":                                 {recent, recentToo, sweep, complete, failed},
		"?status=cancelled&action_name=shutdown_and_purge_room":          {},
		"?job_status=active":                                             {running},
		"?job_status=active&job_status=cancelled":                        {cancelled, running},
		"?job_status=active&status=complete&resource_id=!two:x":          {complete},
		"?job_status=nonsense&status=active":                             {running},
		fmt.Sprintf("?max_timestamp=%d", began+3000):                     {waiting, recent, recentToo, sweep, cancelled, complete},
		fmt.Sprintf("?max_timestamp=%d", began+2999):                     {waiting, recent, recentToo, sweep, cancelled},
		fmt.Sprintf("?max_timestamp=%d", began+2000):                     {waiting, recent, recentToo, sweep, cancelled},
		"?max_timestamp=0":                                               {},
		"?max_timestamp=99999999999999999999":                            all,
		"?max_timestamp=9223372036854775807&status=active&x=%FF&":        {running},
	} {
		r := b.send(t, "GET", scheduledTasks+query, "")
		require.Equal(t, 200, r.status, "%s: %s", query, r.body)
		require.JSONEq(t, `{"scheduled_tasks":[`+strings.Join(want, ",")+`]}`, r.body, query)
	}
	const statuses = "' must be one of ['scheduled', 'active', 'complete', 'failed', 'cancelled']"
	for query, want := range map[string][2]string{
		"status=":                       {"M_INVALID_PARAM", "Query parameter 'status" + statuses},
		"status=queued":                 {"M_INVALID_PARAM", "Query parameter 'status" + statuses},
		"status=active&status=Active":   {"M_INVALID_PARAM", "Query parameter 'status" + statuses},
		"job_status=running":            {"M_INVALID_PARAM", "Query parameter 'job_status" + statuses},
		"status=%C3%A4":                 {"M_UNKNOWN", "Query parameter 'status' must be ascii"},
		"action_name=a&action_name=%FF": {"M_UNKNOWN", "Query parameter 'action_name' must be ascii"},
		"resource_id=!%C3%A4:x":         {"M_UNKNOWN", "Query parameter 'resource_id' must be ascii"},
		"max_timestamp=-1":              {"M_INVALID_PARAM", "Query parameter max_timestamp must be a positive integer."},
		"max_timestamp=1.5":             {"M_INVALID_PARAM", "Query parameter max_timestamp must be an integer"},
	} {
		requireJSON(t, b.send(t, "GET", scheduledTasks+"?"+query, ""), 400, refusal(want[0], want[1]))
	}
}

// Of more jobs than are listed at a time, the rest can be had by their times.
func TestScheduledTasksAreBounded(t *testing.T) {
	t.Parallel()
	b, _ := setupWith(t, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, updated_at)
		SELECT rpad(translate(i::text, '0123456789', 'abcdefghij'), 16, 'x'), 'purge_history', '!r:x', '{}', '@a:x', to_timestamp(i)
		FROM generate_series(1, 10100) i`)
	seen := 0
	for _, page := range []struct{ until, first, last, count int }{{1 << 53, 101, 10100, 10000}, {100_000, 1, 100, 100}} {
		r := b.send(t, "GET", fmt.Sprintf("%s?max_timestamp=%d", scheduledTasks, page.until), "")
		var answer struct {
			Tasks []struct {
				At int `json:"timestamp_ms"`
			} `json:"scheduled_tasks"`
		}
		require.NoError(t, json.Unmarshal([]byte(r.body), &answer))
		require.Len(t, answer.Tasks, page.count)
		require.Equal(t, page.first*1000, answer.Tasks[0].At)
		require.Equal(t, page.last*1000, answer.Tasks[page.count-1].At)
		seen += page.count
	}
	require.Equal(t, 10100, seen)
}
