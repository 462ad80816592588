package synapse

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
	"lethe/internal/store/beside"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const (
	room = storetest.Room

	// waitTime bounds the wait for what happens outside of a test, and poll is the
	// pause between two looks.
	waitTime = time.Minute
	poll     = 5 * time.Millisecond

	// never is an interval that does not end within a test.
	never = time.Hour
)

// A lab is a database that Synapse could have made, and its Redis.
type lab struct {
	*storetest.Lab
	server *devstack.Redis
	redis  redis.UniversalClient
}

func setup(t *testing.T) *lab {
	t.Helper()
	l := storetest.OnAs(t, besidetest.Database(t), schema.Worker)
	server := devstacktest.Redis(t)
	return &lab{l, server, open(t, server)}
}

// open returns a client of the server.
func open(t *testing.T, server *devstack.Redis) redis.UniversalClient {
	t.Helper()
	client, err := redisdb.Open(server.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// synapse returns a Synapse of the lab. Its last look is always too old.
func (l *lab) synapse(options Options) *Synapse {
	l.T.Helper()
	options.ServerName, options.Metrics = storetest.ServerName, observe.NewMetrics(observe.NewRegistry())
	options.LookAge = time.Nanosecond
	s := New(l.DB, options)
	require.NoError(l.T, s.Find(l.Ctx))
	return s
}

// told returns a Synapse that is told through Redis. It announces nothing by the clock.
func (l *lab) told(options Options) *Synapse {
	l.T.Helper()
	if options.Redis == nil {
		options.Redis = open(l.T, l.server)
	}
	s := l.synapse(options)
	s.channel.announceEvery = never
	return s
}

// run runs a Synapse until stop is called, or the test has ended.
func (l *lab) run(s *Synapse) (stop func()) {
	l.T.Helper()
	ctx, cancel := context.WithCancel(l.Ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	l.T.Cleanup(stop)
	return stop
}

// listen starts a process of a homeserver.
func (l *lab) listen(quiet bool) *besidetest.Listener {
	l.T.Helper()
	return besidetest.Listen(l.T, l.URL, open(l.T, l.server), redisdb.HomeserverChannel(storetest.ServerName), quiet)
}

// invalidate commits an invalidation of a room, and returns its id. Nobody is told.
func (l *lab) invalidate(room string) (id int64) {
	l.T.Helper()
	id, err := invalidate(l.Ctx, l.DB, room)
	require.NoError(l.T, err)
	return id
}

// A transactor runs transactions: a DB.
type transactor interface {
	InTransaction(ctx context.Context, do func(pgx.Tx) error) error
}

func invalidate(ctx context.Context, db transactor, room string) (id int64, err error) {
	err = db.InTransaction(ctx, func(tx pgx.Tx) error {
		for _, s := range beside.Invalidate(beside.PurgedHistory, room, &id) {
			if s.Row != nil {
				return s.Row(tx.QueryRow(ctx, s.SQL, s.Args...))
			}
			if _, err := tx.Exec(ctx, s.SQL, s.Args...); err != nil {
				return err
			}
		}
		return nil
	})
	return id, err
}

// eventually waits until done reports true.
func (l *lab) eventually(done func() bool, message ...any) {
	l.T.Helper()
	require.Eventually(l.T, done, waitTime, poll, message...)
}
