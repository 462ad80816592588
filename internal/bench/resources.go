package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// measureMemory purges a small and a large room, each with a worker process of its
// own, and compares the peak memory of these processes.
func measureMemory(ctx context.Context, r *rig) ([]Row, error) {
	t, err := r.template(ctx, "memory", r.options.LargeEvents, r.options.SmallEvents)
	if err != nil {
		return nil, err
	}
	name := func(r room) string { return fmt.Sprintf("%d events", r.events) }
	const measure = "worker's peak, MB"
	m := measurements{}
	err = r.byTurns(ctx, "memory", turn{"a large and a small room", t, func(d database) error {
		for _, room := range t.rooms {
			err := d.atWork(ctx, d.url(), 1, func(ctx context.Context, workers []*os.Process) error {
				if err := d.runJob(ctx, room, submitPurge, nil); err != nil {
					return err
				}
				peak, err := peakMemory(workers[0].Pid)
				m.add(measure, name(room), peak)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}})
	return []Row{m.compare(measure, name(t.rooms[0]), name(t.rooms[1]), "≤ 1.2, below 64 MB")}, err
}

// peakMemory returns the peak resident memory of a process, in MB. It does not use
// getrusage, which includes the memory of the parent process at the fork.
func peakMemory(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read a process's memory, which needs Linux: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if peak, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(peak), "kB")), 64)
			if err != nil {
				return 0, fmt.Errorf("read a process's memory: %w", err)
			}
			return kilobytes * 1024 / 1e6, nil
		}
	}
	return 0, errors.New("read a process's memory: its status has no VmHWM")
}

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
