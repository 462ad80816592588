package fleet

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

const (
	// limitsInterval is the interval at which the limits are read, and limitsTime bounds one
	// look. Together they are less than 5 s.
	limitsInterval = 2 * time.Second
	limitsTime     = 2 * time.Second

	// takeTime bounds a call of a bucket. Without an answer a job goes on.
	takeTime = time.Second
)

// Limits are the limits of the fleet as a worker last read them. It is safe for concurrent
// use.
type Limits struct {
	control *control.Control
	redis   redis.Scripter
	names   *redisdb.Names
	log     *slog.Logger
	swept   int

	mu   sync.Mutex
	rows map[journal.Kind]int // by kind, without kinds that have no limit of their own
}

// New returns Limits that are those of the settings until [Limits.Watch]: what sweeps have
// made deletes swept rows per second, 0 for any number.
func New(db *postgres.DB, client redis.Scripter, log *slog.Logger, swept int) *Limits {
	return &Limits{control: control.New(db), redis: client, log: log, swept: swept}
}

// In makes the Limits use the buckets of the deployment with these names. Without a call
// they are those of no deployment. Call it before all other methods; the last call wins.
func (l *Limits) In(names *redisdb.Names) *Limits {
	l.names = names
	return l
}

// Watch reads the limits every 2 s until the context ends.
func (l *Limits) Watch(ctx context.Context) {
	failing := false
	look := func(ctx context.Context) {
		err := l.Read(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			l.log.WarnContext(ctx, "limits of the fleet not read: the last ones stay", "error", err)
		}
		failing = err != nil
	}
	look(ctx)
	wait.Every(ctx, limitsInterval, look)
}

// Read reads the limits once. If that fails, the last ones stay.
func (l *Limits) Read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limitsTime)
	defer cancel()
	limits, err := l.control.Limits(ctx)
	if err != nil {
		return err
	}
	rows := map[journal.Kind]int{}
	for _, limit := range limits {
		if limit.RowsPerSecond != nil {
			rows[limit.Kind] = *limit.RowsPerSecond
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = rows
	return nil
}

// Rate returns how many rows per second the jobs of a kind may delete together, 0 for any
// number. Without a limit of the kind, the settings limit what sweeps have made.
func (l *Limits) Rate(kind journal.Kind, swept bool) int {
	rate, _ := l.bucket(kind, swept)
	return rate
}

// bucket returns the rate, and the bucket into which so many rows flow.
func (l *Limits) bucket(kind journal.Kind, swept bool) (rate int, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rate, ok := l.rows[kind]; ok {
		return rate, l.names.KindRows(string(kind))
	}
	if swept {
		return l.swept, l.names.RetentionRows()
	}
	return 0, ""
}

// Take takes deleted rows of a job from the bucket that limits it, and returns how long the
// job must pause until the bucket's debt is paid. With 0 rows it only asks.
func (l *Limits) Take(ctx context.Context, kind journal.Kind, swept bool, rows int64) (debt time.Duration) {
	rate, key := l.bucket(kind, swept)
	if rate <= 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	debt, err := redisdb.TakeRows(ctx, l.redis, key, rows, rate)
	if err != nil {
		l.log.WarnContext(ctx, "rows not taken from the bucket: the job does not pause", "error", err)
		return 0
	}
	return debt
}
