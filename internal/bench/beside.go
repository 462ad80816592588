package bench

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
)

// A worker beside a Synapse waits between its batches until Synapse needs some rows no
// longer. It works no more than longestPause after a commit without another one. Longer
// gaps are waits, which take no worker's time.
const (
	mappingDelay = "6s"
	longestPause = 4 * time.Second
)

// measureBeside purges nine tenths of a room and deletes a room, with and without all that
// a running Synapse needs: its locks, invalidations, and the delay of mappings. No
// Synapse runs, so that the difference is what these cost. It also runs a sweep of many
// small rooms both ways. The database must have Synapse's own tables: see [Options.Dump].
func measureBeside(ctx context.Context, r *rig) ([]Row, error) {
	if r.options.Database == "" && r.options.Dump == "" {
		r.say("the case beside needs the tables of a Synapse: give a dump or a database")
		return nil, nil
	}
	t, err := r.template(ctx, "purge", r.options.Events)
	if err != nil {
		return nil, err
	}
	swept, _, due, err := r.sweptTemplate(ctx)
	if err != nil {
		return nil, err
	}
	m := measurements{}
	const purge, wal, whole, rate = "purge, s", "WAL per purged event, bytes", "delete, s", "purges of a sweep per second"
	var turns []turn
	for name, environment := range map[string][]string{
		"alone":  {"LETHE_SYNAPSE_BESIDE=false"},
		"beside": {"LETHE_SYNAPSE_BESIDE=auto", "LETHE_WORKER_MAPPING_DELAY=" + mappingDelay, "LETHE_HOMESERVER_REDIS_URL=" + r.redis.URL()},
	} {
		turns = append(turns, turn{name, t, func(d database) error {
			d.environment = environment
			before, err := d.survey(ctx, t.rooms[0].id)
			if err != nil {
				return err
			}
			took, err := d.workOn(ctx, t.rooms[0], submitPurge)
			if err != nil {
				return err
			}
			after, err := d.survey(ctx, t.rooms[0].id)
			if err != nil {
				return err
			}
			m.add(purge, name, took.Seconds())
			m.add(wal, name, float64(after.wal-before.wal)/float64(before.events-after.events))
			return nil
		}}, turn{name, t, func(d database) error {
			d.environment = environment
			took, err := d.workOn(ctx, t.rooms[0], submitDelete)
			m.add(whole, name, took.Seconds())
			return err
		}}, turn{name, swept, func(d database) error {
			d.environment = environment
			s, err := d.sweep(ctx, 1, 1000, due)
			m.add(rate, name, s.rate)
			return err
		}})
	}
	err = r.byTurns(ctx, "beside", turns...)
	return []Row{
		m.compare(purge, "beside", "alone", "≤ 1.1"),
		m.compare(wal, "beside", "alone", "≤ 1.1"),
		m.compare(whole, "beside", "alone", "≤ 1.1"),
		m.compare(rate, "beside", "alone", "≥ 0.5"),
	}, err
}

// workOn runs one job, and returns how long the worker was at work on it, without the time
// in which it waited in the queue.
func (d database) workOn(ctx context.Context, r room, submit submit) (took time.Duration, err error) {
	err = d.atWork(ctx, d.url(), 1, func(ctx context.Context, _ []*os.Process) error {
		var commits []time.Time
		if err := d.runJob(ctx, r, submit, func(at time.Time) { commits = append(commits, at) }); err != nil {
			return err
		}
		var last, ended time.Time
		if err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `SELECT started_at, ended_at FROM lethe.jobs`).Scan(&last, &ended)
		}); err != nil {
			return fmt.Errorf("read the times of the job: %w", err)
		}
		for _, at := range append(commits, ended) {
			if gap := at.Sub(last); gap > 0 {
				if gap < longestPause {
					took += gap
				}
				last = at
			}
		}
		return nil
	})
	return took, err
}
