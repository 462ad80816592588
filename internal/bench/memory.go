package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
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
