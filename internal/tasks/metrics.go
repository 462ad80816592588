package tasks

import (
	"log/slog"

	"lethe/internal/store/journal"
)

// about returns a job's attributes for logs and traces.
func about(job journal.Job) []slog.Attr {
	return []slog.Attr{slog.String("job", job.ID), slog.String("room", job.Room), slog.String("kind", string(job.Kind))}
}
