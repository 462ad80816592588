package console_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/schedule"
	"lethe/internal/store/storetest"
)

func TestSchedules(t *testing.T) {
	t.Parallel()
	odd := "odd" + markup
	l := setup(t, func(o *operator.Options) {
		o.RetentionJobs = []string{"daily"}
		o.Schedulers = func(context.Context) ([]schedule.Replica, error) {
			return []schedule.Replica{{Name: "host:1", Started: time.Now(), Schedules: []schedule.Entry{
				{Name: "daily", Kind: "retention_sweep", When: "0 3 * * *"}, {Name: odd, Kind: "retention_sweep", When: markup},
			}}}, nil
		}
	})
	l.Exec(`
		INSERT INTO lethe.schedules (job, last_tick, next_tick, outcome, skipped) VALUES ('daily', to_timestamp(3600), to_timestamp(86400), 'skipped', 3), ('gone', now(), NULL, 'noted', 0);
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, ended_at, checkpoint) VALUES
			('BBBBBBBBBBBBBBBB', 'retention_sweep', '', '{"job":"daily"}', '@other:x', 'complete', now(),
			 '{"after":"!z:x","sweep":{"rooms":9000,"enqueued":2,"skipped":{"held":1,"nothing_expired":6000,"no_limit":0}}}')`)
	b, reader := l.signedIn("syt_admin"), l.signedIn("syt_support")
	p := b.get("/schedules")
	require.Equal(t, http.StatusOK, p.status, p.body)
	for _, text := range []string{
		"<code class=\"nowrap\">0 3 * * *</code>", "skipped: the sweep before had not ended; 3 skipped in all", "1970-01-02 00:00:00 UTC",
		"9,000 looked at, 2 with a job", "6,000 nothing expired", "by @other:x", "/jobs/BBBBBBBBBBBBBBBB", "not in the settings any more", "/schedules/run?name=daily",
	} {
		require.Contains(t, p.body, text)
	}
	require.NotContains(t, p.body, "0 no limit")
	require.NotContains(t, p.body, "name=gone")
	require.Equal(t, 1, strings.Count(p.body, "<script"))
	require.NotContains(t, reader.get("/schedules").body, "/schedules/run")
	require.Equal(t, http.StatusForbidden, reader.get("/schedules/run?name=daily").status)
	for _, name := range []string{"", "gone", "none"} {
		require.Equal(t, http.StatusNotFound, b.get("/schedules/run?name="+name).status, name)
	}
	require.Equal(t, 1, strings.Count(b.get("/schedules/run?name="+url.QueryEscape(odd)).body, "<script"))

	run := func(b *browser, name, proof string) page {
		return b.send("POST", root+"/schedules/run", url.Values{"proof": {proof}, "name": {name}, "grace": {"0s"}, "reason": {" because "}})
	}
	require.Equal(t, http.StatusForbidden, run(b, "daily", "").status)
	require.Equal(t, http.StatusForbidden, run(reader, "daily", reader.proof()).status)
	require.Equal(t, http.StatusNotFound, run(b, "gone", b.proof()).status)
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.jobs`))
	p = run(b, "daily", b.proof())
	require.Equal(t, http.StatusSeeOther, p.status, p.body)
	require.Contains(t, b.send("GET", p.header.Get("Location"), nil).body, "The job is accepted.")
	require.Equal(t, "because", storetest.One[string](l.Lab, `SELECT reason FROM lethe.jobs WHERE requester = '@admin:x'`))
	require.Contains(t, b.get("/schedules/run?name=daily").body, "has not ended, and is queued")
	p = run(b, "daily", b.proof())
	require.Equal(t, http.StatusConflict, p.status)
	require.Contains(t, p.body, "The schedule daily has a sweep that has not ended")
}

// A form that is sent several times at once, as by a double click, begins one sweep.
func TestScheduleIsRunOnce(t *testing.T) {
	t.Parallel()
	l := setup(t, daily)
	b := l.signedIn("syt_admin")
	proof := b.proof()
	const sends = 8
	statuses := make(chan int, sends)
	for range sends {
		one := &browser{l, maps.Clone(b.cookies)}
		go func() {
			statuses <- one.send("POST", root+"/schedules/run", url.Values{"proof": {proof}, "name": {"daily"}}).status
		}()
	}
	answers := map[int]int{}
	for range sends {
		answers[<-statuses]++
	}
	require.Equal(t, map[int]int{http.StatusSeeOther: 1, http.StatusConflict: sends - 1}, answers)
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.jobs`))
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.audit`))
}

// The name of a schedule leads to no other call of the API.
func TestOddScheduleNamesRunNothing(t *testing.T) {
	t.Parallel()
	l := setup(t, daily)
	b := l.signedIn("syt_admin")
	before := contents(l)
	for _, name := range []string{"", ".", "..", "../schedules/daily", "daily/run?", "daily/", "daily%00", "x/../daily", "daily/run#", "DAILY", " daily", "daily\n", strings.Repeat("d", 60_000)} {
		p := b.send("POST", root+"/schedules/run", url.Values{"proof": {b.proof()}, "name": {name}})
		require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, p.status, "%.40q: %.300s", name, p.body)
		require.Less(t, len(p.body), maxPage)
	}
	require.Equal(t, before, contents(l))
}

func TestManySchedulesAreASmallPage(t *testing.T) {
	t.Parallel()
	var names []string
	for n := range 500 {
		names = append(names, fmt.Sprintf("%03d%s", n, strings.Repeat(`"`, 200)))
	}
	l := setup(t, func(o *operator.Options) {
		o.RetentionJobs = names
		o.Schedulers = func(context.Context) ([]schedule.Replica, error) {
			replica := schedule.Replica{Name: "host:1"}
			for _, name := range names {
				replica.Schedules = append(replica.Schedules, schedule.Entry{Name: name, Kind: "retention_sweep", When: strings.Repeat(`"`, 300)})
			}
			return []schedule.Replica{replica}, nil
		}
	})
	l.Exec(`INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, ended_at, error, checkpoint)
		SELECT lpad(translate(n::text, '0123456789', 'abcdefghij'), 16, 'A'), 'retention_sweep', '', jsonb_build_object('job', lpad(n::text, 3, '0') || repeat('"', 200)), '@' || repeat('"', 254),
			'failed', now(), repeat('"', 2000), '{"sweep":{"rooms":9000,"enqueued":2,"skipped":{"held":1,"nothing_expired":6000,"too_many":5,"no_limit":6,"running":7}}}' FROM generate_series(0, 499) n`)
	l.Exec(`INSERT INTO lethe.schedules (job, last_tick, outcome) SELECT 'AAA gone' || n, now(), 'noted' FROM generate_series(1, 100) n`)
	b := l.signedIn("syt_admin")
	p := b.get("/schedules")
	require.Equal(t, http.StatusOK, p.status)
	require.Less(t, len(p.body), maxPage)
	require.Contains(t, p.body, "570 more")
	require.Contains(t, p.body, "9,000 looked at")
	require.NotContains(t, p.body, "AAA gone", "one without effect takes the place of one that sweeps")
	require.Less(t, len(b.get("/schedules/run?name="+url.QueryEscape(names[0])).body), maxPage)
}

func TestOverviewShowsSchedulers(t *testing.T) {
	t.Parallel()
	with := func(names []string, replicas ...schedule.Replica) string {
		l := setup(t, func(o *operator.Options) {
			o.RetentionJobs = names
			o.Schedulers = func(context.Context) ([]schedule.Replica, error) { return replicas, nil }
		})
		return l.signedIn("syt_admin").get("/").body
	}
	body := with([]string{"daily"}, schedule.Replica{Name: "host:1" + markup, Started: time.Now()})
	require.Contains(t, body, `<td class="id">host:1`)
	require.NotContains(t, body, "No scheduler is alive")
	require.Regexp(t, `role="alert">No scheduler is alive. No sweep of retention begins`, with([]string{"daily"}))
	require.Contains(t, with(nil), `<p class="warning">No scheduler is alive. Jobs whose tasks`)
	require.NotContains(t, setup(t).signedIn("syt_admin").get("/").body, "No scheduler is alive")
}
