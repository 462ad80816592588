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

// A meter tells the processor time that those have taken whose work is measured: a
// process, and the server's processes for a database that have not ended.
type meter struct {
	pid  int
	conn *pgx.Conn // to another database
	of   string    // the database
}

// total is the time since those that are there began.
func (m meter) total(ctx context.Context) (time.Duration, error) {
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

// processorTime is what the threads of a process have taken, to the nanosecond: small
// benchmarks are over in less than what getrusage counts in.
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
			continue // it ended
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
