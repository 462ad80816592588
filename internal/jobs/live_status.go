package jobs

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"

	"lethe/internal/observe"
)

// A LiveStatus is the status of a running job. It is safe for concurrent use.
type LiveStatus struct {
	board *Board
	about []slog.Attr

	mu     sync.Mutex
	status Status
}

// NewLiveStatus returns the status of a running job on the board. The attributes name the
// job in the log.
func NewLiveStatus(board *Board, status Status, about ...slog.Attr) *LiveStatus {
	return &LiveStatus{board: board, about: about, status: status}
}

// Post posts the status.
func (s *LiveStatus) Post(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.board.Post(observe.About(ctx, s.about...), s.status) // a heartbeat's context names no job
}

// SetProgress sets the progress that the next post shows: a checkpoint, or none if it
// cannot be encoded.
func (s *LiveStatus) SetProgress(checkpoint any) {
	encoded, err := json.Marshal(checkpoint)
	if err != nil {
		encoded = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Progress = string(encoded)
}
