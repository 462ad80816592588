package operator_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/retention"
	"lethe/internal/schedule"
	"lethe/internal/store/storetest"
	"lethe/internal/tasks"
)

// alive are schedulers that are alive.
func alive(replicas ...schedule.Replica) func(*operator.Options) {
	return func(options *operator.Options) {
		options.Schedulers = func(context.Context) ([]schedule.Replica, error) { return replicas, nil }
	}
}

func TestSchedulersOfTheFleet(t *testing.T) {
	t.Parallel()
	require.Nil(t, get[operator.Fleet](setup(t), "GET", "/fleet", "").Schedulers)
	require.Equal(t, []operator.FleetScheduler{}, *get[operator.Fleet](setupWith(t, operator.Options{}, alive()), "GET", "/fleet", "").Schedulers)
	begun := time.UnixMilli(1_700_000_000_000)
	l := setupWith(t, operator.Options{}, alive(schedule.Replica{Name: "host:1", Started: begun}))
	require.Equal(t, []operator.FleetScheduler{{Name: "host:1", Started: begun.UnixMilli()}}, *get[operator.Fleet](l, "GET", "/fleet", "").Schedulers)
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	l := setupWith(t, operator.Options{RetentionJobs: []string{"daily", "own"}, AbandonedJob: retention.AbandonedJob}, alive(schedule.Replica{
		Name: "host:1", Schedules: []schedule.Entry{{Name: "daily", Kind: "retention_sweep", When: "1d"}, {Name: "hourly", Kind: "retention_sweep", When: "0 * * * *"}},
	}))
	l.Exec(`
		INSERT INTO lethe.schedules (job, last_tick, next_tick, outcome, sweep_id, skipped) VALUES
			('daily', to_timestamp(100), to_timestamp(200), 'accepted', 'AAAAAAAAAAAAAAAA', 3),
			('gone', to_timestamp(100), NULL, 'noted', NULL, 0);
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, ended_at, created_at, checkpoint) VALUES
			('AAAAAAAAAAAAAAAA', 'retention_sweep', '', '{"job":"daily"}', 'retention', 'complete', now(), now() - interval '1 hour', '{}'),
			('BBBBBBBBBBBBBBBB', 'retention_sweep', '', '{"job":"daily"}', '@admin:x', 'complete', now(), now() - interval '1 minute',
			 '{"after":"!z:x","sweep":{"rooms":9,"enqueued":2,"skipped":{"held":1,"nothing_expired":6}}}')`)
	list := get[operator.Schedules](l, "GET", "/schedules", "").Schedules
	byName, names := map[string]operator.Schedule{}, []string{}
	for _, s := range list {
		byName[s.Name], names = s, append(names, s.Name)
	}
	require.Equal(t, []string{"abandoned-rooms", "daily", "gone", "hourly", "own"}, names)
	daily := byName["daily"]
	require.Equal(t, "BBBBBBBBBBBBBBBB", daily.LastSweep.ID, "also one that a user has asked for")
	require.EqualValues(t, 9, *daily.LastSweep.Result.Rooms)
	require.EqualValues(t, 2, *daily.LastSweep.Result.Enqueued)
	require.EqualValues(t, 6, daily.LastSweep.Result.Skipped["nothing_expired"])
	daily.LastSweep = nil
	require.Equal(t, operator.Schedule{
		Name: "daily", Kind: "retention_sweep", When: "1d", Configured: true, Scheduled: true,
		LastTick: 100_000, NextTick: 200_000, Outcome: "accepted", SkippedTicks: 3,
	}, daily)
	require.Equal(t, operator.Schedule{Name: "hourly", Kind: "retention_sweep", When: "0 * * * *", Scheduled: true}, byName["hourly"])
	require.Equal(t, operator.Schedule{Name: "own", Kind: "retention_sweep", Configured: true}, byName["own"])
	require.Equal(t, operator.Schedule{Name: "abandoned-rooms", Kind: "abandoned_sweep", Configured: true}, byName["abandoned-rooms"])
	require.Equal(t, operator.Schedule{Name: "gone", LastTick: 100_000, Outcome: "noted"}, byName["gone"])
	require.Equal(t, []operator.Schedule{}, get[operator.Schedules](setup(t), "GET", "/schedules", "").Schedules)
}

func TestRunOfASchedule(t *testing.T) {
	t.Parallel()
	l := setupWith(t, operator.Options{RetentionJobs: []string{"daily"}, AbandonedJob: retention.AbandonedJob, Grace: time.Hour})
	for _, name := range []string{"none", "%00", "daily%2Frun"} {
		l.refused(404, "There is no schedule", "POST", "/schedules/"+name+"/run", "{}")
	}
	l.refused(400, "'grace' must be a duration", "POST", "/schedules/daily/run", `{"grace":"x"}`)
	l.refused(400, "zero byte", "POST", "/schedules/daily/run", `{"reason":"\u0000"}`)
	l.refused(400, "Unknown param", "POST", "/schedules/daily/run", `{"plan":"x"}`)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.jobs`))

	accepted := get[operator.Accepted](l, "POST", "/schedules/daily/run", `{"reason":"now","grace":"0s"}`)
	require.Equal(t, "queued", accepted.State)
	require.Equal(t, "@admin:x now daily false", storetest.One[string](l.Lab, `
		SELECT requester || ' ' || reason || ' ' || (parameters ->> 'job') || ' ' || (task_missing_since IS NOT NULL)::text FROM lethe.jobs`))
	l.refused(409, "The schedule daily has a sweep that has not ended: the job "+accepted.ID+" is queued", "POST", "/schedules/daily/run", "{}")
	l.refused(409, accepted.ID, "POST", "/schedules/daily/run", "")
	require.Equal(t, "scheduled", get[operator.Accepted](l, "POST", "/schedules/abandoned-rooms/run", "").State, "with the grace of the settings")
	get[operator.Outcome](l, "POST", "/jobs/"+accepted.ID+"/cancel", "")
	require.NotEqual(t, accepted.ID, get[operator.Accepted](l, "POST", "/schedules/daily/run", "").ID)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.schedules`), "the ticks stay as they are")
}

// However many ask at once, and beside ticks, a schedule has one open sweep.
func TestRunsOfAScheduleAtOnce(t *testing.T) {
	t.Parallel()
	l := setupWith(t, operator.Options{RetentionJobs: []string{"daily"}})
	every, err := retention.Every(time.Second.Milliseconds())
	require.NoError(t, err)
	scheduler := schedule.New(storetest.On(t, l.url).DB, tasks.NewClient(l.DB, nil, nil, l.log), l.log, l.metrics, schedule.Options{
		Rules: retention.Config{Enabled: true, Jobs: []retention.Job{{Name: "daily", Schedule: every}}},
	})
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			if i%4 == 0 {
				_, err := scheduler.Once(l.Ctx, "daily")
				if err != nil {
					t.Error(err)
				}
				return
			}
			if status := l.do("POST", "/schedules/daily/run", "").status; status != 202 && status != 409 {
				t.Error(status)
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*)::int FROM lethe.jobs WHERE ended_at IS NULL`))
}
