package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// A meter measures the processor time of a process and of PostgreSQL's processes for
// one database.
type meter struct {
	pid  int       // of the process
	conn *pgx.Conn // to another database, so that it does not count
	of   string    // the name of the database
}

// total returns the processor time that the running processes have used so far. It
// returns 0 without a meter.
func (m *meter) total(ctx context.Context) (time.Duration, error) {
	if m == nil {
		return 0, nil
	}
	rows, err := m.conn.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = $1`, m.of)
	if err != nil {
		return 0, fmt.Errorf("look for the server's processes: %w", err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return 0, fmt.Errorf("look for the server's processes: %w", err)
	}
	var total time.Duration
	for _, pid := range append(pids, m.pid) {
		took, err := processorTime(pid)
		if err != nil {
			return 0, err
		}
		total += took
	}
	return total, nil
}

// processorTime returns the processor time of a process. It reads schedstat, which
// counts nanoseconds: getrusage is too coarse for small benchmarks.
func processorTime(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, fmt.Errorf("look for the threads of a process: %w", err)
	}
	if len(threads) == 0 {
		return 0, fmt.Errorf("read the processor time of process %d, which needs Linux: %w", pid, fs.ErrNotExist)
	}
	var total time.Duration
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		var running int64
		if err == nil {
			_, err = fmt.Sscan(string(text), &running)
		}
		if err != nil {
			return 0, fmt.Errorf("read the processor time of a thread: %w", err)
		}
		total += time.Duration(running)
	}
	return total, nil
}
