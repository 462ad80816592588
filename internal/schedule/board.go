package schedule

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
	"lethe/internal/wait"
)

const (
	// beatInterval is the interval at which a scheduler shows that it is alive, and beatKeep
	// how long it is shown after that.
	beatInterval = 10 * time.Second
	beatKeep     = 30 * time.Second

	// beatTime bounds a call of Redis.
	beatTime = time.Second
)

// A Replica is a scheduler that is alive. All replicas are equal: each tick is taken by one
// of them, and no replica leads.
type Replica struct {
	// Name is its host and process id, such as "host:71".
	Name string `json:"-"`

	// Started is when it began, and At when it was last seen.
	Started time.Time `json:"started"`
	At      time.Time `json:"at"`

	// Schedules are the enabled jobs of its settings.
	Schedules []Entry `json:"schedules"`
}

// An Entry is a job that a scheduler sweeps at its ticks.
type Entry struct {
	// Name is the job's name in the settings, and Kind the kind of its sweeps.
	Name string       `json:"name"`
	Kind journal.Kind `json:"kind"`

	// When is its interval or cron, as the settings write it.
	When string `json:"when"`
}

// A Board shows which schedulers are alive. It is kept in Redis, as the list of workers is.
type Board struct {
	client redis.UniversalClient
	names  *redisdb.Names
}

// NewBoard returns the Board of the deployment with these names.
func NewBoard(client redis.UniversalClient, names *redisdb.Names) *Board {
	return &Board{client: client, names: names}
}

// Replicas returns the schedulers that were seen within 30 s, sorted by name, and forgets
// those that have died.
func (b *Board) Replicas(ctx context.Context) ([]Replica, error) {
	ctx, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	texts, err := b.client.HGetAll(ctx, b.names.Schedulers()).Result()
	if err != nil {
		return nil, fmt.Errorf("read the schedulers: %w", err)
	}
	replicas, dead := []Replica{}, []string(nil)
	for name, text := range texts {
		replica := Replica{Name: name}
		if err := json.Unmarshal([]byte(text), &replica); err != nil || time.Since(replica.At) > beatKeep {
			dead = append(dead, name)
			continue
		}
		replicas = append(replicas, replica)
	}
	if len(dead) > 0 {
		// A scheduler that is alive after all writes again within 10 s.
		if err := b.client.HDel(ctx, b.names.Schedulers(), dead...).Err(); err != nil {
			return nil, fmt.Errorf("read the schedulers: %w", err)
		}
	}
	slices.SortFunc(replicas, func(a, b Replica) int { return cmp.Compare(a.Name, b.Name) })
	return replicas, nil
}

// post shows a replica.
func (b *Board) post(ctx context.Context, replica Replica) error {
	ctx, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	text, err := json.Marshal(replica)
	if err != nil {
		return fmt.Errorf("show the scheduler: %w", err)
	}
	pipeline := b.client.Pipeline()
	pipeline.HSet(ctx, b.names.Schedulers(), replica.Name, text)
	pipeline.Expire(ctx, b.names.Schedulers(), 2*beatKeep)
	if _, err := pipeline.Exec(ctx); err != nil {
		return fmt.Errorf("show the scheduler: %w", err)
	}
	return nil
}

// forget removes a replica that stops.
func (b *Board) forget(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), beatTime)
	defer cancel()
	return b.client.HDel(ctx, b.names.Schedulers(), name).Err()
}

// Beat shows on the board every 10 s that the scheduler with the name is alive. When the
// context ends, Beat removes the scheduler from the board and returns. While Redis cannot be
// reached, the scheduler works on.
func (s *Scheduler) Beat(ctx context.Context, board *Board, name string) {
	replica := Replica{Name: name, Started: s.wall(), Schedules: []Entry{}}
	for _, job := range s.due {
		replica.Schedules = append(replica.Schedules, Entry{Name: job.Name, Kind: job.kind, When: job.Schedule.String()})
	}
	failing := false
	beat := func(ctx context.Context) {
		replica.At = s.wall()
		err := board.post(ctx, replica)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.WarnContext(ctx, "the scheduler cannot show that it is alive, and works on", "error", err)
		}
		failing = err != nil
	}
	beat(ctx)
	wait.Every(ctx, beatInterval, beat)
	_ = board.forget(name) // if this fails, the entry is too old in 30 s
}
