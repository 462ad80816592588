package httpapi_test

import (
	"bytes"
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
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
)

// FuzzRequest holds that no path, query or body makes an answer that is not
// JSON, has no reason, or is a failure of ours.
func FuzzRequest(f *testing.F) {
	statuses := board{
		"id":  jobs.Status{State: journal.Running},
		"del": jobs.Status{Kind: jobs.DeleteRoom, State: journal.Failed, Error: "400: why", Room: "!room:x"},
		// That of every delete that is submitted, so that nobody waits for its end.
		submittedDelete: jobs.Status{Kind: jobs.DeleteRoom, State: journal.Complete},
	}
	database := devstacktest.Database(f, "httpapi", prepare)
	conn, err := pgx.Connect(f.Context(), database)
	require.NoError(f, err)
	_, err = conn.Exec(f.Context(), `
		INSERT INTO rooms (room_id) VALUES ('!room:x');
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester)
		VALUES ('BusyBusyBusyBusy', 'delete_room', '!busy:x', '{}', '@admin:x')`)
	require.NoError(f, err)
	require.NoError(f, conn.Close(f.Context()))
	handler := httpapi.New(openStore(f, database), &submitter{}, statuses, httpapi.Options{
		Log: slog.New(slog.DiscardHandler), ServerName: "x",
	})
	for _, target := range []string{
		"/", "*", "//", "/%2F", "/_synapse/admin/v1/server_version", "/_synapse/admin/v1/server_version?access_token=x",
		room, room + "/", room + "//", room + "/$one", room + "/$two%2F2", room + "/%00", room + "/%ff", room + "?a;b&%zz",
		"/_synapse/admin/v1/purge_history//$nobody", status, status + "id", status + "a%2fb", status + "id/",
		roomsV1 + "!room:x", roomsV1 + "%21room%3Ax", roomsV1 + "!unknown:x", roomsV1 + "%00", roomsV1,
		roomsV2 + "!room:x", roomsV2 + "!busy:x", roomsV2 + hashRoom, roomsV2 + "!a%2Fb:[::1]:8448", roomsV2 + "%FF",
		roomsV2 + "!room:x/delete_status", roomsV2 + "!busy:x/delete_status", roomsV2 + "%00/delete_status",
		roomsV2 + "delete_status/del", roomsV2 + "delete_status/", roomsV2 + "delete_status/%00",
		roomsV2 + "delete_status/delete_status", "/_synapse/admin/v1/scheduled_tasks?action_name=shutdown_and_purge_room",
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			f.Add(method, target, []byte(nil))
		}
	}
	for _, target := range []string{
		rooms, rooms + "/", rooms + "?from=1&limit=2&order_by=size&dir=b&search_term=%25_&public_rooms=true&empty_rooms=false",
		rooms + "?search_term=%00", rooms + "?search_term=%5C&limit=9223372036854775807&from=9223372036854775807",
		rooms + "/!room:x", rooms + "/%00", rooms + "/!room:x/members", rooms + "/!room:x/state?type=m.room.name",
		rooms + "/!room:x/state?type=%00", rooms + "/!a:x/block", rooms + "/!%00:x/block", rooms + "/!a:x/forward_extremities",
		rooms + "/%23a:x/forward_extremities", rooms + "/%23%00:x/forward_extremities", rooms + "//forward_extremities",
		rooms + "/!room:x/hierarchy?limit=1&max_depth=0&from=1-0123456789abcdef", rooms + "/%00/hierarchy",
		adminV1 + "/room/!room:x/media", adminV1 + "/room/%00/media", adminV1 + "/fetch_event/$one", adminV1 + "/fetch_event/%00",
		adminV1 + "/event_reports?from=1&limit=2&dir=f&user_id=%25&room_id=%00&event_sender_user_id=@a:x", adminV1 + "/event_reports/1",
		"/_synapse/admin/v2/users/@a%00:x", "/_synapse/admin/v2/users/@user:x", "/_matrix/client/versions", "/_matrix/client/v3/login",
		"/_synapse/admin/v3/users?name=%25&order_by=last_seen_ts&dir=b&not_user_type=&not_user_type=%00&admins=true&locked=true",
		adminV1 + "/event_reports/99999999999999999999", adminV1 + "/statistics/database/rooms",
		rooms + "/!room:x/timestamp_to_event?ts=1&dir=b", rooms + "/%00/timestamp_to_event?ts=9223372036854775808",
		scheduledTasks + "?action_name=purge_history&resource_id=%00&status=active&max_timestamp=1", scheduledTasks + "?job_status=failed",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			f.Add(method, target, []byte(`{"block":true}`))
		}
	}
	for _, body := range []string{
		`{"purge_up_to_ts":1000}`, `{"purge_up_to_ts":1e3}`, `{"purge_up_to_event_id":"$one","delete_local_events":1e-999}`,
		`{"purge_up_to_event_id":"\u0000"}`, `{"purge_up_to_event_id":null,"purge_up_to_ts":-99999999999999999999}`,
		`[`, `[[[[[[`, `null`, `NaN`, "\xff", `{"a":{},"a":1}`, `{"delete_local_events":[ ]}`, ` `,
	} {
		f.Add("POST", room, []byte(body))
	}
	for _, body := range []string{
		`{}`, `{"block":true,"purge":false,"force_purge":true}`, `{"block":null}`, `{"purge":1}`, `{"force_purge":"true"}`,
		`{"room_name":"\u0000","message":"\ud800","new_room_user_id":"@new:x"}`, `{"room_name":1}`, `{"message":[]}`,
		`{"new_room_user_id":""}`, `{"new_room_user_id":{}}`, `{"new_room_user_id":"@\u0000:x"}`, `{"block":true,"block":0}`,
	} {
		f.Add("DELETE", roomsV1+"!room:x", []byte(body))
		f.Add("DELETE", roomsV2+"!room:x", []byte(body))
		f.Add("DELETE", roomsV2+"!busy:x", []byte(body))
	}
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.ParseRequestURI(target) // as net/http does
		if err != nil {
			return
		}
		request, err := http.NewRequestWithContext(t.Context(), method, "/", bytes.NewReader(body))
		if err != nil {
			return
		}
		request.URL = u
		request.Header.Set("Authorization", "Bearer "+admin)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)

		requireHeaders(t, w.Header())
		require.Less(t, w.Code, 500, w.Body)
		if w.Code == http.StatusNoContent {
			return
		}
		var answer map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), w.Body)
		require.Equal(t, w.Code >= 400, answer["errcode"] != nil, w.Body)
		require.Equal(t, answer["errcode"] != nil, answer["error"] != nil && answer["status"] == nil, w.Body)
	})
}
