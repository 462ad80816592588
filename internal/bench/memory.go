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
	peaks := make([][]float64, len(t.rooms))
	for run := range r.options.Runs {
		r.say("memory, run %d", run+1)
		err := r.onCopy(ctx, t, func(d database) error {
			for i, room := range t.rooms {
				err := d.atWork(ctx, d.url(), 1, func(ctx context.Context, workers []*os.Process) error {
					if err := d.purgeAtWork(ctx, room, nil); err != nil {
						return err
					}
					peak, err := peakMemory(workers[0].Pid)
					peaks[i] = append(peaks[i], peak)
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	name := func(i int) string { return fmt.Sprintf("%d events", t.rooms[i].events) }
	return []Row{compare("memory", "worker's peak, MB", sample(name(0), peaks[0]), sample(name(1), peaks[1]), "≤ 1.2, below 64 MB")}, nil
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
