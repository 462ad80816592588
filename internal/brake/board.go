package brake

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
)

const (
	// boardTime bounds a call of Redis.
	boardTime = time.Second

	// boardKeep is how long the last state of a worker is shown. Resting workers write every
	// 10 s.
	boardKeep = 30 * time.Second
)

// A Board shows what the brakes of all workers do. It is in Redis, where the states of jobs
// are: without Redis, only the brakes themselves know.
type Board struct {
	client redis.UniversalClient
	names  *redisdb.Names
}

// NewBoard returns the Board of the deployment with these names.
func NewBoard(client redis.UniversalClient, names *redisdb.Names) *Board {
	return &Board{client: client, names: names}
}

// Post shows the state of a worker's brake.
func (b *Board) Post(ctx context.Context, worker string, state State) error {
	ctx, cancel := context.WithTimeout(ctx, boardTime)
	defer cancel()
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("show the brake: %w", err)
	}
	pipeline := b.client.Pipeline()
	pipeline.HSet(ctx, b.names.Brakes(), worker, text)
	pipeline.Expire(ctx, b.names.Brakes(), 2*boardKeep)
	if _, err := pipeline.Exec(ctx); err != nil {
		return fmt.Errorf("show the brake: %w", err)
	}
	return nil
}

// States returns the states by worker, and forgets those of workers that have died.
func (b *Board) States(ctx context.Context) (map[string]State, error) {
	ctx, cancel := context.WithTimeout(ctx, boardTime)
	defer cancel()
	texts, err := b.client.HGetAll(ctx, b.names.Brakes()).Result()
	if err != nil {
		return nil, fmt.Errorf("read the brakes: %w", err)
	}
	states, dead := map[string]State{}, []string(nil)
	for worker, text := range texts {
		var state State
		if err := json.Unmarshal([]byte(text), &state); err != nil || time.Since(state.At) > boardKeep {
			dead = append(dead, worker)
			continue
		}
		states[worker] = state
	}
	if len(dead) > 0 {
		// One that is alive after all writes again within 10 s.
		if err := b.client.HDel(ctx, b.names.Brakes(), dead...).Err(); err != nil {
			return nil, fmt.Errorf("read the brakes: %w", err)
		}
	}
	return states, nil
}
