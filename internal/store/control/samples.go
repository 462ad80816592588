package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lethe/internal/store/postgres"
)

// A Sample is how far a job had come at the end of a batch.
type Sample struct {
	At time.Time

	// Done is the number of events that the job had gone through, for a sweep of rooms.
	Done int64
}

// Samples returns how far a job had come at the ends of its batches, the oldest first. There
// are at most 200 samples, spread evenly over the time in which the job has worked. An unknown
// job has no samples, and a job without a batch since migration 00018 has none either.
func (c *Control) Samples(ctx context.Context, id string) ([]Sample, error) {
	const operation = "read the job's samples"
	if !postgres.Storable(id) {
		return nil, nil
	}
	var text *string
	err := c.db.ReadRow(ctx, []any{&text}, `SELECT samples ->> 'points'::text FROM lethe.jobs WHERE id = $1`, id)
	if errors.Is(err, postgres.ErrNotFound) || err == nil && text == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	var points [][2]int64
	if err := json.Unmarshal([]byte(*text), &points); err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	samples := make([]Sample, 0, len(points))
	for _, point := range points {
		samples = append(samples, Sample{time.UnixMilli(point[0]), point[1]})
	}
	return samples, nil
}
