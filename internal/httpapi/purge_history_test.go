package httpapi_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/store/journal"
	"lethe/internal/tasks"
)

const (
	room   = "/_synapse/admin/v1/purge_history/!room:x"
	status = "/_synapse/admin/v1/purge_history_status/"
)

// The events of !room:x.
var (
	tokenOfOne = matrix.Token{Topological: 1, Stream: 2}
	tokenOfTwo = matrix.Token{Topological: 2, Stream: 3}
)

func TestPurgeHistory(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	type wanted struct {
		token matrix.Token
		point jobs.PurgePoint // as it was requested
	}
	event := func(id string) jobs.PurgePoint { return jobs.PurgePoint{BeforeEvent: id} }
	at := func(ms int64) jobs.PurgePoint { return jobs.PurgePoint{BeforeTime: &ms} }
	for body, want := range map[string]wanted{
		`{"purge_up_to_event_id":"$one"}`:                                       {tokenOfOne, event("$one")},
		`{"purge_up_to_event_id":"$two/2"}`:                                     {tokenOfTwo, event("$two/2")},
		`{"purge_up_to_event_id":"\u0024one","purge_up_to_ts":"unread"}`:        {tokenOfOne, event("$one")},
		`{"purge_up_to_event_id":null,"purge_up_to_ts":2000}`:                   {tokenOfTwo, at(2000)},
		`{"purge_up_to_ts":1000}`:                                               {tokenOfOne, at(1000)},
		`{"purge_up_to_ts":1001}`:                                               {tokenOfTwo, at(1001)},
		`{"purge_up_to_ts":2001}`:                                               {tokenOfTwo, at(2001)}, // not the rejected one
		`{"purge_up_to_ts":9223372036854775807}`:                                {tokenOfTwo, at(math.MaxInt64)},
		`{"purge_up_to_ts":1` + strings.Repeat("0", 400) + `}`:                  {tokenOfTwo, at(math.MaxInt64)},
		` {"purge_up_to_ts" : 1 , "purge_up_to_ts" : 1000 , "x":[{}]}` + "\r\n": {tokenOfOne, at(1000)},
	} {
		requireJSON(t, b.send(t, "POST", room, body), 200, `{"purge_id":"AbCdEfGhIjKlMnOp"}`)
		require.Equal(t, []tasks.PurgeHistory{{Room: "!room:x", Token: want.token, PurgePoint: want.point, Requester: "@admin:x"}}, b.tasks.taken(), body)
	}
	for path, body := range map[string]string{
		room + "/$one":   ``,
		room + "/%24one": `{"purge_up_to_event_id":7,"purge_up_to_ts":true}`, // the path's event comes first
	} {
		requireJSON(t, b.send(t, "POST", path, body), 200, `{"purge_id":"AbCdEfGhIjKlMnOp"}`)
		require.Equal(t, []tasks.PurgeHistory{{Room: "!room:x", Token: tokenOfOne, PurgePoint: event("$one"), Requester: "@admin:x"}}, b.tasks.taken(), path)
	}
}

func TestPurgeHistoryRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	const (
		notJSON   = `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`
		notObject = `{"errcode":"M_BAD_JSON","error":"Content must be a JSON object."}`
		notInt    = `{"errcode":"M_BAD_JSON","error":"purge_up_to_ts must be an int"}`
		notString = `{"errcode":"M_BAD_JSON","error":"purge_up_to_event_id must be a string"}`
		nothing   = `{"errcode":"M_BAD_JSON","error":"must specify purge_up_to_event_id or purge_up_to_ts"}`
		noEvent   = `{"errcode":"M_NOT_FOUND","error":"there is no event to be purged"}`
		wrongRoom = `{"errcode":"M_UNKNOWN","error":"Event is for wrong room."}`
		tooLarge  = `{"errcode":"M_TOO_LARGE","error":"Request content is too large"}`
	)
	for _, test := range []struct {
		body   string
		status int
		want   string
	}{
		{``, 400, nothing},
		{`{}`, 400, nothing},
		{`{"purge_up_to_event_id":null}`, 400, nothing},
		{`{"PURGE_UP_TO_TS":1000}`, 400, nothing},

		{` `, 400, notJSON},
		{`{`, 400, notJSON},
		{`{} {}`, 400, notJSON},
		{`purge_up_to_ts=1000`, 400, notJSON},
		{`NaN`, 400, notJSON},
		{`{"purge_up_to_ts":NaN}`, 400, notJSON},
		{`{"x":Infinity}`, 400, notJSON},
		{`{"x":-Infinity}`, 400, notJSON},
		{`{"purge_up_to_ts":01}`, 400, notJSON},
		{`{"purge_up_to_ts":+1}`, 400, notJSON},
		{`{'x':1}`, 400, notJSON},
		{"\ufeff{}", 400, notJSON},
		{"{\"x\":\"\xff\"}", 400, notJSON},
		{"{\"x\":\"\x00\"}", 400, notJSON},
		{strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), 400, notJSON},
		{strings.Repeat(`{"a":`, 50_000) + "1" + strings.Repeat("}", 50_000), 400, notJSON},

		{`null`, 400, notObject},
		{`[]`, 400, notObject},
		{`1`, 400, notObject},
		{`1e999`, 400, notObject},
		{`"x"`, 400, notObject},
		{`true`, 400, notObject},

		{`{"purge_up_to_ts":null}`, 400, notInt},
		{`{"purge_up_to_ts":true}`, 400, notInt},
		{`{"purge_up_to_ts":"1000"}`, 400, notInt},
		{`{"purge_up_to_ts":1000.0}`, 400, notInt},
		{`{"purge_up_to_ts":1e3}`, 400, notInt},
		{`{"purge_up_to_ts":1E3}`, 400, notInt},
		{`{"purge_up_to_ts":-0.0}`, 400, notInt},
		{`{"purge_up_to_ts":[1000]}`, 400, notInt},
		{`{"purge_up_to_ts":{}}`, 400, notInt},

		{`{"purge_up_to_ts":0}`, 404, noEvent},
		{`{"purge_up_to_ts":-0}`, 404, noEvent},
		{`{"purge_up_to_ts":-1}`, 404, noEvent},
		{`{"purge_up_to_ts":-1` + strings.Repeat("0", 400) + `}`, 404, noEvent},

		{`{"purge_up_to_event_id":1}`, 400, notString},
		{`{"purge_up_to_event_id":false,"purge_up_to_ts":1000}`, 400, notString},
		{`{"purge_up_to_event_id":["$one"]}`, 400, notString},
		{`{"purge_up_to_event_id":{}}`, 400, notString},
		{`{"purge_up_to_event_id":"$other"}`, 400, wrongRoom},
		{`{"purge_up_to_event_id":""}`, 404, refusal("M_NOT_FOUND", "Could not find event ")},
		{`{"purge_up_to_event_id":"","purge_up_to_ts":1000}`, 404, refusal("M_NOT_FOUND", "Could not find event ")},
		{`{"purge_up_to_event_id":"$one\u0000"}`, 404, refusal("M_NOT_FOUND", "Could not find event $one\x00")},
		{`{"purge_up_to_event_id":"\ud800"}`, 404, refusal("M_NOT_FOUND", "Could not find event \uFFFD")},
		{`{"purge_up_to_event_id":"$rejected"}`, 404, refusal("M_NOT_FOUND", "Could not find event $rejected")},

		{`{"x":"` + strings.Repeat("x", 1<<20) + `"}`, 413, tooLarge},
		{strings.Repeat(" ", 1<<20) + "{}", 413, tooLarge},
	} {
		t.Run(test.body[:min(len(test.body), 60)], func(t *testing.T) {
			t.Parallel()
			requireJSON(t, b.send(t, "POST", room, test.body), test.status, test.want)
			if test.want == notJSON || test.want == notObject || test.want == tooLarge {
				requireJSON(t, b.send(t, "POST", room+"/$one", test.body), test.status, test.want)
			}
		})
	}
	t.Run("unknown room", func(t *testing.T) {
		t.Parallel()
		for _, unknown := range []string{"", "!nobody:x", "%00", "%FF", "junk"} {
			r := b.send(t, "POST", "/_synapse/admin/v1/purge_history/"+unknown, `{"purge_up_to_ts":9999}`)
			if unknown == "" { // which is a room here
				require.Equal(t, 200, r.status)
				continue
			}
			requireJSON(t, r, 404, noEvent)
		}
	})
	t.Run("bad framing", func(t *testing.T) {
		t.Parallel()
		requireJSON(t, b.raw(t, "POST "+room+" HTTP/1.1\nHost: x\nAuthorization: Bearer admin\nTransfer-Encoding: chunked\n\nzz\r\n"), 400, notJSON)
	})
	t.Run("huge and chunked", func(t *testing.T) {
		t.Parallel()
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<20+1, strings.Repeat(" ", 1<<20+1))
		requireJSON(t, b.raw(t, "POST "+room+" HTTP/1.1\nHost: x\nAuthorization: Bearer admin\nTransfer-Encoding: chunked\n\n"+chunk), 413, tooLarge)
	})
}

func TestDeleteLocalEventsIsJudgedAsPythonWould(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	for value, want := range map[string]bool{
		`null`: false, `false`: false, `true`: true,
		`0`: false, `-0`: false, `0.0`: false, `-0.0e9`: false, `0e999`: false, `1e-999`: false,
		`1`: true, `-1`: true, `0.1`: true, `1e999`: true, `1` + strings.Repeat("0", 999): true,
		`""`: false, `" "`: true, `"false"`: true, `"0"`: true, `"\u0000"`: true,
		`[]`: false, "[ \n]": false, `[0]`: true, `[[]]`: true,
		`{}`: false, `{ }`: false, `{"":null}`: true,
	} {
		r := b.send(t, "POST", room+"/$one", `{"delete_local_events": `+value+` }`)
		require.Equal(t, 200, r.status, r.body)
		require.Equal(t, want, b.tasks.taken()[0].DeleteLocalEvents, value)
	}
}

func TestSeedDialectRefusesABusyRoom(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{SeedDialect: true})
	require.Equal(t, 200, b.send(t, "POST", room+"/$one", "").status)
	require.True(t, b.tasks.taken()[0].Exclusive)

	busy := setup(t, httpapi.Options{SeedDialect: true})
	busy.tasks.instead = func(context.Context) error { return fmt.Errorf("submit: %w", journal.ErrRoomBusy) }
	requireJSON(t, busy.send(t, "POST", room+"/$one", ""), 400,
		refusal("M_UNKNOWN", "History purge already in progress for !room:x"))
	// What is wrong with the request itself comes first.
	requireJSON(t, busy.send(t, "POST", room+"/$other", ""), 400, refusal("M_UNKNOWN", "Event is for wrong room."))
}

func TestPurgeHistoryStatus(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	for _, test := range []struct {
		status jobs.Status
		want   string
	}{
		{jobs.Status{State: journal.Queued}, `{"status":"active"}`},
		{jobs.Status{State: journal.Running}, `{"status":"active"}`},
		{jobs.Status{State: journal.Scheduled}, `{"status":"active"}`},
		{jobs.Status{State: journal.Paused, WaitsFor: "pause of the room"}, `{"status":"active","waits_for":"pause of the room"}`},
		{
			jobs.Status{State: journal.Running, Progress: `{"phase":"events","size":7,"batches":2,"events_deleted":5,"events_kept":1,"complete_below":9}`},
			`{"status":"active","progress":{"phase":"events","batches":2,"events_deleted":5,"events_kept":1,"complete_below":9}}`,
		},
		{jobs.Status{State: journal.Complete}, `{"status":"complete"}`},
		{jobs.Status{State: journal.Failed, Error: "400: too <new>"}, `{"status":"failed","error":"400: too <new>"}`},
		{jobs.Status{State: journal.Cancelled}, `{"status":"failed","error":"cancelled"}`},
		{jobs.Status{State: journal.Absorbed, Progress: `{"absorbed_by":"other"}`}, `{"status":"active","absorbed_by":"other"}`},
		{jobs.Status{State: journal.Complete, Progress: `{"absorbed_by":"other"}`}, `{"status":"complete","absorbed_by":"other"}`},
		{
			jobs.Status{State: journal.Failed, Error: "other failed", Progress: `{"absorbed_by":"other"}`},
			`{"status":"failed","error":"other failed","absorbed_by":"other"}`,
		},
	} {
		b.jobs["id"] = test.status
		requireJSON(t, b.send(t, "GET", status+"id", ""), 200, test.want)
	}
	requireJSON(t, b.send(t, "GET", status+"nobody", ""), 404, refusal("M_NOT_FOUND", "purge id 'nobody' not found"))
	head := b.send(t, "HEAD", status+"id", "")
	require.Equal(t, 200, head.status)
	require.Empty(t, head.body)
}
