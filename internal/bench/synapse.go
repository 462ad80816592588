package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/bench/synapserun"
	"lethe/internal/matrix"
)

// measureAgainstSynapse purges nine tenths of a room, and deletes a room, by a Synapse and
// by Lethe, each on its own copy of a database that has Synapse's tables and an admin. No
// Synapse runs while Lethe works; the case beside measures what that would cost. Synapse
// deletes unused state groups only later, so that they are not in its time and its WAL.
func measureAgainstSynapse(ctx context.Context, r *rig) ([]Row, error) {
	if r.options.SynapseCommand == "" || r.options.Database == "" && r.options.Dump == "" {
		r.say("the case synapse needs a command that runs a Synapse, and its tables: give a dump or a database")
		return nil, nil
	}
	server, err := r.serverOfAdmin(ctx)
	if err != nil {
		return nil, err
	}
	t, err := r.templateOf(ctx, "synapse", func(ctx context.Context, tx pgx.Tx) ([]room, error) {
		r.say("creating a room of %d events for synapse", r.options.Events)
		made, err := makeRoom(ctx, tx, server, 1, r.options.Events)
		return []room{made}, err
	})
	if err != nil {
		return nil, err
	}
	of := t.rooms[0]
	synapse := synapserun.Synapse{
		Command: r.options.SynapseCommand, URL: r.options.Synapse, Token: r.options.SynapseToken, Output: r.options.Progress,
	}
	const bySynapse, byLethe = "Synapse", "Lethe"
	m := measurements{}
	var turns []turn
	var measures []string
	for _, job := range []struct {
		name      string
		bySynapse func(ctx context.Context, before string) (time.Duration, error)
		byLethe   func(ctx context.Context, d database) (time.Duration, error)
	}{{
		name: "purge",
		bySynapse: func(ctx context.Context, before string) (time.Duration, error) {
			return synapse.PurgeHistory(ctx, of.id, before)
		},
		byLethe: func(ctx context.Context, d database) (time.Duration, error) {
			return d.purgeByJob(ctx, d.url(), true, of)
		},
	}, {
		name:      "delete",
		bySynapse: func(ctx context.Context, _ string) (time.Duration, error) { return synapse.DeleteRoom(ctx, of.id) },
		byLethe: func(ctx context.Context, d database) (time.Duration, error) {
			seconds, err := d.deleteByJob(ctx, of)
			return time.Duration(seconds * float64(time.Second)), err
		},
	}} {
		seconds, wal := job.name+", s", "WAL per event of a "+job.name+", bytes"
		left := int64(-1)
		// survey measures a job that leaves as many events as the other side's.
		survey := func(ctx context.Context, d database, name string, do func() (time.Duration, error)) error {
			before, err := d.survey(ctx, of.id)
			if err != nil {
				return err
			}
			took, err := do()
			if err != nil {
				return err
			}
			after, err := d.survey(ctx, of.id)
			if err != nil {
				return err
			}
			if left < 0 {
				left = after.events
			}
			if after.events != left || left >= before.events {
				return fmt.Errorf("%d of %d events are left, but the first side left %d", after.events, before.events, left)
			}
			m.add(seconds, name, took.Seconds())
			m.add(wal, name, float64(after.wal-before.wal)/float64(before.events-left))
			return nil
		}
		turns = append(turns, turn{job.name + " by " + bySynapse, t, func(d database) error {
			before, err := d.eventAt(ctx, of)
			if err != nil {
				return err
			}
			// Where the superuser has the name of Lethe's schema, as on the benchmark's own server,
			// Synapse would look for its tables there first.
			if err := r.exec(ctx, "postgres", `ALTER DATABASE `+d.name+` SET search_path = public`); err != nil {
				return err
			}
			return synapse.On(ctx, d.url(), func(ctx context.Context) error {
				return survey(ctx, d, bySynapse, func() (time.Duration, error) { return job.bySynapse(ctx, before) })
			})
		}}, turn{job.name + " by " + byLethe, t, func(d database) error {
			d.environment = []string{"LETHE_SERVER_NAME=" + server}
			return survey(ctx, d, byLethe, func() (time.Duration, error) { return job.byLethe(ctx, d) })
		}})
		measures = append(measures, seconds, wal)
	}
	if err := r.byTurns(ctx, "synapse", turns...); err != nil {
		return nil, err
	}
	var rows []Row
	for _, measure := range measures {
		rows = append(rows, m.compare(measure, byLethe, bySynapse, ""))
	}
	return rows, nil
}

// serverOfAdmin returns the server name of the admin whose access token is given.
func (r *rig) serverOfAdmin(ctx context.Context) (server string, err error) {
	var admin string
	err = r.query(ctx, r.source, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT t.user_id FROM access_tokens t JOIN users u ON u.name = t.user_id AND u.admin = 1 WHERE t.token = $1`,
			r.options.SynapseToken).Scan(&admin)
	})
	if err != nil {
		return "", fmt.Errorf("find the admin with the access token: %w", err)
	}
	server, ok := matrix.ServerOf(admin)
	if !ok {
		return "", fmt.Errorf("the admin %.255q has no server", admin)
	}
	return server, nil
}

// eventAt returns the id of an event at the depth up to which a room is purged.
func (d database) eventAt(ctx context.Context, r room) (id string, err error) {
	err = d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT event_id FROM events WHERE room_id = $1 AND topological_ordering = $2 ORDER BY stream_ordering LIMIT 1`,
			r.id, r.depth).Scan(&id)
	})
	if err != nil {
		return "", fmt.Errorf("find the event to purge up to: %w", err)
	}
	return id, nil
}
