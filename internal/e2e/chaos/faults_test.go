package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"lethe/internal/devstack"
)

// pause waits for that time, or until the run ends early.
func (w *world) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.t.Context().Done():
	}
}

func (w *world) processes(kind string) []*process {
	return map[string][]*process{"api": w.apis, "worker": w.workers, "scheduler": w.schedulers}[kind]
}

func kill(kind string) func(*world, fault) error {
	return func(w *world, f fault) error {
		all := w.processes(kind)
		p := all[f.target%uint64(len(all))]
		defer w.lane(p)()
		p.kill(f.lasts, w.pause)
		return nil
	}
}

func stop(kind string) func(*world, fault) error {
	return func(w *world, f fault) error {
		all := w.processes(kind)
		p := all[f.target%uint64(len(all))]
		defer w.lane(p)()
		p.stop(f.lasts, w.pause)
		return nil
	}
}

// server is the Redis that a fault meets.
func (w *world) server(f fault) (i int, server *devstack.Redis, before *proxy) {
	i = int(f.target % uint64(len(w.redis.servers)))
	return i, w.redis.servers[i], w.redis.proxies[i]
}

func (w *world) flush(fault) error {
	defer w.lane(w.redis)()
	var errs []error
	for i := range w.redis.servers {
		errs = append(errs, w.redis.on(w.t.Context(), i, "FLUSHALL"))
	}
	return errors.Join(errs...)
}

func (w *world) restartRedis(f fault) error {
	defer w.lane(w.redis)()
	i, _, _ := w.server(f)
	return w.redis.restart(w.t.Context(), i, f.lasts, w.pause)
}

func (w *world) hangRedis(f fault) error {
	defer w.lane(w.redis)()
	_, server, _ := w.server(f)
	if err := server.Pause(); err != nil {
		return err
	}
	w.pause(f.lasts)
	return server.Resume()
}

func (w *world) fillRedis(f fault) error {
	defer w.lane(w.redis)()
	i, _, _ := w.server(f)
	if err := w.redis.on(w.t.Context(), i, "CONFIG", "SET", "maxmemory", "1"); err != nil {
		return err
	}
	w.pause(f.lasts)
	return w.redis.on(w.t.Context(), i, "CONFIG", "SET", "maxmemory", "0")
}

func (w *world) cutRedis(f fault) error {
	defer w.lane(w.redis)()
	_, _, before := w.server(f)
	before.cut()
	return nil
}

func (w *world) slowRedis(f fault) error {
	defer w.lane(w.redis)()
	_, _, before := w.server(f)
	w.during(f, before, func(p *proxy) { p.delay = 30 * time.Millisecond }, func(p *proxy) { p.delay = 0 })
	return nil
}

func (w *world) loseRedis(f fault) error {
	defer w.lane(w.redis)()
	_, _, before := w.server(f)
	w.lose(f, before)
	return nil
}

// during disturbs a proxy as long as the fault lasts.
func (w *world) during(f fault, p *proxy, begin, end func(*proxy)) {
	p.set(begin)
	w.pause(f.lasts)
	p.set(end)
}

// lose cuts connections at random messages: before the server has them, or before it
// answers them.
func (w *world) lose(f fault, p *proxy) {
	w.during(f, p, func(p *proxy) { p.loses = rand.New(rand.NewPCG(f.target, 2)) }, func(p *proxy) { p.loses = nil })
}

func (w *world) terminate(fault) error {
	defer w.lane(w.db)()
	w.db.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'lethe\_%'`)
	return nil
}

func (w *world) limitRole(f fault) error {
	defer w.lane(w.db)()
	role := roleOf(processKinds[f.target%3])
	w.db.exec(fmt.Sprintf(`ALTER ROLE %s CONNECTION LIMIT %d`, role, 1+f.target%2))
	w.db.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1`, role)
	w.pause(f.lasts)
	w.db.exec(fmt.Sprintf(`ALTER ROLE %s CONNECTION LIMIT -1`, role))
	return nil
}

// lockRows locks the events of a room, as a forgotten psql may.
func (w *world) lockRows(f fault) error {
	room := w.rooms[f.target%uint64(len(w.rooms))]
	return w.lock(f, `SELECT count(*) FROM (SELECT FROM events WHERE room_id = $1 FOR UPDATE) locked`, room.id)
}

// lockTable locks a table, as a change of the schema may.
func (w *world) lockTable(f fault) error {
	tables := []string{"events", "event_json", "event_edges", "room_memberships", "lethe.jobs", "lethe.room_fences"}
	return w.lock(f, `LOCK TABLE `+tables[f.target%uint64(len(tables))]+` IN ACCESS EXCLUSIVE MODE`)
}

func (w *world) lock(f fault, sql string, args ...any) error {
	defer w.lane(w.db)()
	ctx, cancel := context.WithTimeout(w.t.Context(), f.lasts+20*time.Second)
	defer cancel()
	tx, err := w.db.own().Begin(ctx)
	if err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, sql, args...); err == nil {
		w.pause(f.lasts)
	}
	return errors.Join(err, tx.Rollback(context.WithoutCancel(ctx)))
}

func (w *world) cutPostgres(f fault) error {
	defer w.lane(w.db)()
	w.db.proxy.set(func(p *proxy) { p.refuses = true })
	w.db.proxy.cut()
	w.pause(f.lasts)
	w.db.proxy.set(func(p *proxy) { p.refuses = false })
	return nil
}

func (w *world) slowPostgres(f fault) error {
	defer w.lane(w.db)()
	w.during(f, w.db.proxy, func(p *proxy) { p.delay = 40 * time.Millisecond }, func(p *proxy) { p.delay = 0 })
	return nil
}

func (w *world) stallPostgres(f fault) error {
	defer w.lane(w.db)()
	ends := make(chan struct{})
	w.during(f, w.db.proxy, func(p *proxy) { p.stalled = ends }, func(p *proxy) { p.stalled = nil })
	close(ends)
	return nil
}

func (w *world) losePostgres(f fault) error {
	defer w.lane(w.db)()
	w.lose(f, w.db.proxy)
	return nil
}

func (w *world) silencePostgres(fault) error {
	defer w.lane(w.db)()
	w.db.proxy.silence()
	return nil
}

func (w *world) restartPostgres(fault) error {
	defer w.lane(w.db)()
	return w.db.primary.Restart(w.t.Context())
}

func (w *world) promote(fault) error {
	defer w.lane(w.db)()
	return w.db.promote(w.t.Context())
}
