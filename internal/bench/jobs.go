package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/redisdb"
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
	sizes := make([]int, r.options.Jobs)
	for i := range sizes {
		sizes[i] = tinyRoom
	}
	t, err := r.template(ctx, "jobs", sizes...)
	if err != nil {
		return nil, err
	}
	done := map[int][]float64{}
	var accepted, enqueued []float64
	for run := range r.options.Runs {
		for _, workers := range []int{1, 2} {
			r.say("jobs, run %d: %d workers", run+1, workers)
			err := r.onCopy(ctx, t, func(d database) error {
				bare, err := r.enqueueBare(ctx)
				if err != nil {
					return err
				}
				ours, err := d.submitAll(ctx, t.rooms)
				if err != nil {
					return err
				}
				rate, err := d.workAll(ctx, workers)
				if err != nil {
					return err
				}
				accepted, enqueued = append(accepted, ours), append(enqueued, bare)
				done[workers] = append(done[workers], rate)
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return []Row{
		compare("jobs", "done per second", sample("2 workers", done[2]), sample("1 worker", done[1]), ""),
		compare("jobs", "accepted per second", sample("Lethe", accepted), sample("asynq alone", enqueued), "≥ 0.3"),
	}, nil
}

// submitAll accepts a purge of each room. It returns how many it accepted per second.
func (d database) submitAll(ctx context.Context, rooms []room) (float64, error) {
	s, err := d.submitter(ctx)
	if err != nil {
		return 0, err
	}
	defer s.close()
	return perSecond(len(rooms), func(i int) error { return s.submit(ctx, rooms[i]) })
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
