package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/admin"
	"lethe/internal/store/beside"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// A turnstile stands between a client and the server, and lets a number of the client's
// messages pass. Then nothing passes any more, and the connections stay open: to the server
// the client looks like a process that was stopped.
type turnstile struct {
	address string

	mu    sync.Mutex
	left  int           // messages that may pass, below 0 without a limit
	stuck chan struct{} // closed when none may pass any more
	close func()        // closes all connections
}

func newTurnstile(t *testing.T, server string) *turnstile {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &turnstile{address: listener.Addr().String(), left: -1, stuck: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	s.close = sync.OnceFunc(func() {
		stop()
		_ = listener.Close()
		group.Wait()
	})
	t.Cleanup(s.close)
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = client.Close(), upstream.Close() })
			group.Go(func() { s.pass(ctx, upstream, client, true) })
			group.Go(func() { s.pass(ctx, client, upstream, false) })
		}
	})
	return s
}

func (s *turnstile) pass(ctx context.Context, to, from net.Conn, counted bool) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err != nil || !s.mayPass(counted) {
			if err == nil || errors.Is(err, io.EOF) {
				<-ctx.Done()
			}
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
		if counted {
			s.passed()
		}
	}
}

func (s *turnstile) mayPass(counted bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left != 0
}

func (s *turnstile) passed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left > 0 {
		if s.left--; s.left == 0 {
			close(s.stuck)
		}
	}
}

func (s *turnstile) limit(messages int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = messages
}

// A process that is stopped inside a write transaction, at any of its steps, keeps no other
// process waiting: the server ends its session.
func TestStoppedClientBlocksNobody(t *testing.T) {
	t.Parallel()
	type operation struct {
		prepare func(l *storetest.Lab, room string) string
		do      func(ctx context.Context, db *postgres.DB, room, id string) error
	}
	queued := func(l *storetest.Lab, room string) string { return l.Queue(room) }
	nothing := func(*storetest.Lab, string) string { return "" }
	operations := map[string]operation{
		"insert alone": {nothing, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			return journal.New(db).InsertJob(ctx, storetest.NewJob(jobs.NewID(), room), true)
		}},
		"insert": {nothing, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			return journal.New(db).InsertJob(ctx, storetest.NewJob(jobs.NewID(), room), false)
		}},
		"claim": {queued, func(ctx context.Context, db *postgres.DB, _, id string) error {
			_, err := journal.New(db).ClaimJob(ctx, id, 1, jobs.HeartbeatStale, 1)
			return err
		}},
		"hold": {nothing, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			_, err := journal.NewHolds(db).Place(ctx, room, "a case", "@admin:x")
			return err
		}},
		"fence": {nothing, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			_, err := journal.New(db).NextFence(ctx, room)
			return err
		}},
		"batch": {func(l *storetest.Lab, room string) string { return l.Work(room).Run.JobID }, func(ctx context.Context, db *postgres.DB, room, id string) error {
			j := journal.New(db)
			fence, err := j.NextFence(ctx, room)
			if err != nil {
				return err
			}
			b := j.Begin(journal.Run{JobID: id, Generation: 1, Attempt: 1}, journal.RoomLock{Room: room, Fence: fence, Lease: stoppedTime})
			defer b.Rollback(ctx)
			if _, err := b.Exec(ctx, `DELETE FROM room_tags WHERE room_id = $1`, room); err != nil {
				return err
			}
			return b.Commit(ctx, nil)
		}},
		"forward extremities": {func(l *storetest.Lab, room string) string {
			l.Chain(room, room, 2, 10*storetest.One[int](l, `SELECT count(*)::int FROM rooms`))
			return ""
		}, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			_, err := admin.New(db).DeleteForwardExtremities(ctx, room)
			return err
		}},
		"block": {nothing, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			return admin.New(db).BlockRoom(ctx, room, "@admin:x")
		}},
		"cancel": {queued, func(ctx context.Context, db *postgres.DB, _, id string) error {
			_, err := control.New(db).Do(ctx, control.Request{Verb: control.VerbCancel, Who: "o"}, control.Filter{IDs: []string{id}}, 1)
			return err
		}},
		"pause": {nothing, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			_, err := control.New(db).SetPause(ctx, control.Pause{Scope: control.ScopeRoom, Value: room, Who: "o"})
			return err
		}},
		"tick": {func(l *storetest.Lab, room string) string {
			l.Exec(`INSERT INTO lethe.schedules (job, last_tick, outcome) VALUES ($1, 'epoch', 'noted')`, room)
			return ""
		}, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			sweep := storetest.NewJob(jobs.NewID(), "")
			sweep.Kind, sweep.Parameters = jobs.RetentionSweep, []byte(`{"job": "x"}`)
			_, err := journal.NewSchedules(db).TakeTick(ctx, journal.Tick{Job: room, At: time.Now(), Sweep: sweep})
			return err
		}},
		"mappings": {func(l *storetest.Lab, room string) string {
			l.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($1, '{$e}', true, 'epoch')`, room)
			return ""
		}, func(ctx context.Context, db *postgres.DB, room, _ string) error {
			_, err := beside.SweepMappings(ctx, db, room)
			return err
		}},
	}
	for name, op := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := storetest.New(t, schema.API, schema.Worker, schema.Scheduler)
			server, err := url.Parse(l.URL)
			require.NoError(t, err)
			for step := 1; ; step++ {
				require.Less(t, step, 40, "the operation has no end")
				room := fmt.Sprintf("!r%d:x", step)
				id := op.prepare(l, room)
				stile := newTurnstile(t, server.Host)
				via := *server
				via.Host = stile.address
				db, err := postgres.Open(l.Ctx, via.String(), postgres.Options{IdleTime: stoppedTime, MaxConnections: 1})
				require.NoError(t, err)
				require.NoError(t, db.Ping(l.Ctx))
				stile.limit(step)
				ctx, cancel := context.WithCancel(l.Ctx)
				done := make(chan error, 1)
				go func() { done <- op.do(ctx, db, room, id) }()
				var ended bool
				select {
				case err := <-done:
					require.NoError(t, err)
					ended = true
				case <-stile.stuck:
				}
				if !ended {
					// The same operation by another process: it may find it done, but it must
					// not wait for the one that was stopped.
					other, stop := context.WithTimeout(l.Ctx, time.Minute)
					err := op.do(other, l.DB, room, id)
					require.False(t, postgres.IsLocked(err), "step %d: %v", step, err)
					require.NoError(t, other.Err())
					stop()
				}
				stile.close()
				cancel()
				if !ended {
					<-done
				}
				db.Close()
				if ended {
					require.Greater(t, step, 1)
					return
				}
			}
		})
	}
}

// stoppedTime is how long the server waits for a process that was stopped.
const stoppedTime = 300 * time.Millisecond
