package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/tasks"
)

const (
	// tinyRoom is the number of events of the rooms of tiny purges.
	tinyRoom = 12

	// enqueuers is how many goroutines enqueue at once.
	enqueuers = 16
)

// measureJobs purges many tiny rooms. It measures how many jobs per second one worker
// and two workers complete. It also measures how many jobs per second are accepted,
// which writes a row and a status for each, compared with only enqueueing such tasks
// with asynq.
func measureJobs(ctx context.Context, r *rig) ([]Row, error) {
	t, err := r.template(ctx, "jobs", slices.Repeat([]int{tinyRoom}, r.options.Jobs)...)
	if err != nil {
		return nil, err
	}
	m := measurements{}
	const done, accepted = "done per second", "accepted per second"
	turnOf := func(name string, workers int) turn {
		return turn{name, t, func(d database) error {
			bare, err := r.enqueueBare(ctx)
			if err != nil {
				return err
			}
			ours, err := d.submitAll(ctx, t.rooms, submitPurge)
			if err != nil {
				return err
			}
			rate, err := d.workAll(ctx, workers)
			m.add(accepted, "Lethe", ours)
			m.add(accepted, "asynq alone", bare)
			m.add(done, name, rate)
			return err
		}}
	}
	err = r.byTurns(ctx, "jobs", turnOf("1 worker", 1), turnOf("2 workers", 2))
	return []Row{
		m.compare(done, "2 workers", "1 worker", ""),
		m.compare(accepted, "Lethe", "asynq alone", "≥ 0.3"),
	}, err
}

// submitAll accepts a job of each room. It returns how many it accepted per second.
func (d database) submitAll(ctx context.Context, rooms []room, submit submit) (rate float64, err error) {
	err = d.withClient(ctx, func(client *tasks.Client) (err error) {
		rate, err = perSecond(len(rooms), func(i int) error { return submit(ctx, client, rooms[i]) })
		return err
	})
	return rate, err
}

// enqueueBare enqueues one task for each job, like those of package tasks. It uses a
// Redis database without workers. It returns how many it enqueued per second.
func (r *rig) enqueueBare(ctx context.Context) (rate float64, err error) {
	client, err := redisdb.Open(strings.TrimSuffix(r.redis.URL(), "/0") + "/1")
	if err != nil {
		return 0, err
	}
	defer func() { _ = client.Close() }()
	queue := asynq.NewClientFromRedisClient(client)
	rate, err = perSecond(r.options.Jobs, func(int) error {
		id := jobs.NewID()
		body, err := json.Marshal(map[string]any{"job_id": id, "generation": 1})
		if err != nil {
			return err
		}
		_, err = queue.EnqueueContext(ctx, asynq.NewTask(string(jobs.PurgeHistory), body),
			asynq.TaskID(id+"~1"), asynq.Timeout(time.Hour), asynq.MaxRetry(math.MaxInt32))
		return err
	})
	return rate, errors.Join(err, client.FlushDB(ctx).Err())
}

// perSecond calls do n times, several calls at once. It returns how many calls there
// were per second.
func perSecond(n int, do func(i int) error) (float64, error) {
	started := time.Now()
	var group errgroup.Group
	group.SetLimit(enqueuers)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	err := group.Wait()
	return float64(n) / time.Since(started).Seconds(), err
}

// workAll runs workers until all jobs have ended. It returns how many jobs they
// completed per second, counted from the start of the first job.
func (d database) workAll(ctx context.Context, workers int) (float64, error) {
	err := d.atWork(ctx, d.url(), workers, func(ctx context.Context, _ []*os.Process) error {
		return d.awaitJobs(ctx, nil)
	})
	if err != nil {
		return 0, err
	}
	var rate float64
	if err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT count(*) / extract(epoch FROM max(ended_at) - min(started_at))::float FROM lethe.jobs`).Scan(&rate)
	}); err != nil {
		return 0, fmt.Errorf("read when the jobs ended: %w", err)
	}
	return rate, nil
}
