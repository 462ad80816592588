package operator_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/store/storetest"
)

// audited are the entries that match, the oldest first, as texts.
func (l *lab) audited(query string) (lines []string) {
	l.T.Helper()
	for _, e := range get[operator.Audit](l, "GET", "/audit"+query, "").Entries {
		require.WithinDuration(l.T, time.Now(), time.UnixMilli(e.At), time.Minute)
		line := strings.Join(strings.Fields(strings.Join([]string{e.Who, e.Way, e.Action, e.Subject, e.Room, e.Reason}, " ")), " ")
		if string(e.Detail) != "{}" {
			line += " " + string(e.Detail)
		}
		lines = append([]string{line}, lines...)
	}
	return lines
}

func TestEveryChangeIsAudited(t *testing.T) {
	t.Parallel()
	l := setupWith(t, operator.Options{RetentionJobs: []string{"daily"}})
	l.Chain(room, "a", 9, 0)
	purge := l.purge("$a5", `,"reason":"old"`).ID
	del := get[operator.Accepted](l, "POST", "/deletes", `{"room_id":"!room:x"}`).ID
	get[operator.Accepted](l, "POST", "/schedules/daily/run", "")
	get[operator.Accepted](l, "POST", "/sweeps", `{"kind":"retention_sweep"}`)
	get[operator.Outcome](l, "POST", "/jobs/"+purge+"/pause", `{"reason":"wait","dry_run":true}`)
	get[operator.Outcome](l, "POST", "/jobs/"+purge+"/pause", `{"reason":"wait"}`)
	get[operator.Outcome](l, "POST", "/jobs/"+purge+"/resume", "")
	get[operator.Outcomes](l, "POST", "/jobs/bulk", `{"verb":"cancel","reason":"all","filter":{"room":"!room:x"}}`)
	get[operator.Outcome](l, "POST", "/jobs/"+del+"/retry", "")
	get[operator.Outcome](l, "POST", "/jobs/"+del+"/priority", `{"queue":"low"}`)
	for range 2 { // the second changes nothing
		get[operator.Hold](l, "PUT", "/holds/!h:x", `{"reason":"case"}`)
	}
	get[operator.Hold](l, "DELETE", "/holds/!h:x", "")
	get[operator.Pause](l, "PUT", "/pauses/room/!h:x", `{"reason":"r"}`)
	get[operator.Pause](l, "PUT", "/pauses/all/all", `{"reason":"r","until_ts":99999999999999}`)
	get[operator.Pause](l, "DELETE", "/pauses/all/all", "")
	get[operator.Limit](l, "PUT", "/fleet/purge_history", `{"jobs":3}`)
	get[operator.Limit](l, "PUT", "/fleet/purge_history", `{}`)
	get[operator.BrakeSignal](l, "PUT", "/brake/standby_seconds", `{"soft":5,"hard":30}`)
	get[operator.BrakeSignal](l, "DELETE", "/brake/standby_seconds", "")
	for _, block := range []string{"true", "true", "false", "false"} {
		r, err := http.NewRequestWithContext(l.Ctx, "PUT", l.server.URL+"/_synapse/admin/v1/rooms/"+room+"/block", strings.NewReader(`{"block":`+block+`}`))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer admin")
		r.Header.Set("User-Agent", "lethe-command")
		response, err := l.server.Client().Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	require.Equal(t, []string{
		"@admin:x api request purge_history !room:x old",
		"@admin:x api request delete_room !room:x",
		`@admin:x api request retention_sweep {"schedule":"daily"}`,
		"@admin:x api request retention_sweep",
		`@admin:x api pause purge_history !room:x wait {"from":"queued"}`,
		`@admin:x api resume purge_history !room:x {"from":"paused"}`,
		`@admin:x api cancel purge_history !room:x all {"from":"queued"}`,
		`@admin:x api cancel delete_room !room:x all {"from":"queued"}`,
		`@admin:x api retry delete_room !room:x {"from":"cancelled"}`,
		`@admin:x api priority delete_room !room:x {"from":"queued","queue":"low"}`,
		"@admin:x api hold !h:x case",
		"@admin:x api lift_hold !h:x",
		"@admin:x api set_pause room !h:x r",
		`@admin:x api set_pause all jobs r {"until_ts":99999999999999}`,
		"@admin:x api lift_pause all jobs",
		`@admin:x api set_limits purge_history {"before":{"jobs":null,"rows_per_second":null},"jobs":3,"rows_per_second":null}`,
		`@admin:x api set_limits purge_history {"before":{"jobs":3,"rows_per_second":null},"jobs":null,"rows_per_second":null}`,
		`@admin:x api set_brake standby_seconds {"before":null,"hard":30,"soft":5}`,
		`@admin:x api reset_brake standby_seconds {"before":{"hard":30,"soft":5}}`,
		"@admin:x cli block !room:x",
		"@admin:x cli unblock !room:x",
	}, normalised(t, l.audited("")))

	// What is refused has no entry.
	before := l.audited("")
	l.refused(404, "", "DELETE", "/holds/!h:x", "")
	l.refused(409, "", "POST", "/schedules/daily/run", "")
	l.refused(409, "", "POST", "/jobs/"+purge+"/cancel", "")
	l.refused(404, "", "DELETE", "/pauses/all/all", "")
	l.refused(409, "", "POST", "/deletes", `{"room_id":"!room:x"}`)
	require.Equal(t, before, l.audited(""))

	// Filters.
	require.Len(t, l.audited("?action=hold&action=lift_hold"), 2)
	require.Len(t, l.audited("?way=cli"), 2)
	require.Len(t, l.audited("?room=!h:x"), 3)
	require.Len(t, l.audited("?job="+purge), 4)
	require.Len(t, l.audited("?who=@admin:x"), 21)
	require.Empty(t, l.audited("?who=@other:x"))
	require.Empty(t, l.audited(fmt.Sprintf("?since=%d", time.Now().Add(time.Hour).UnixMilli())))
	require.Len(t, l.audited(fmt.Sprintf("?before=%d", time.Now().Add(time.Hour).UnixMilli())), 21)
	for _, query := range []string{"?action=odd", "?way=odd", "?since=x", "?since=-1", "?limit=0", "?limit=1001", "?from=odd", "?from=MSAy", "?who=%00", "?room=%00", "?job=%00"} {
		a := l.do("GET", "/audit"+query, "")
		require.True(t, a.status == 400 || query == "?from=MSAy" && a.status == 200, "%s: %s", query, a.body)
	}
}

// normalised returns the lines with the keys of their details in order.
func normalised(t *testing.T, lines []string) (ordered []string) {
	t.Helper()
	for _, line := range lines {
		if text, detail, ok := strings.Cut(line, " {"); ok {
			var values any
			require.NoError(t, json.Unmarshal([]byte("{"+detail), &values))
			encoded, err := json.Marshal(values)
			require.NoError(t, err)
			line = text + " " + string(encoded)
		}
		ordered = append(ordered, line)
	}
	return ordered
}

func TestAuditHasPages(t *testing.T) {
	t.Parallel()
	l := setup(t)
	// Many at the same moment.
	l.Exec(`INSERT INTO lethe.audit (at, who, action, subject) SELECT now() - (n / 20) * interval '1 hour', '@a:x', 'set_limits', n::text FROM generate_series(1, 95) n`)
	seen, from := map[string]bool{}, ""
	for range 20 {
		page := get[operator.Audit](l, "GET", "/audit?limit=10&from="+url.QueryEscape(from), "")
		for _, e := range page.Entries {
			require.False(t, seen[e.Subject], e.Subject)
			seen[e.Subject] = true
		}
		if page.Next == nil {
			break
		}
		from = *page.Next
	}
	require.Len(t, seen, 95)
	require.Equal(t, []operator.AuditEntry{}, get[operator.Audit](l, "GET", "/audit?who=none", "").Entries)
	require.Equal(t, 95, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.audit`))
}
