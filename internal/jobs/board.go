package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

const (
	// maxAge is the age up to which the status of an open job is used. Each heartbeat
	// posts the status of a running job. An older status may come from a worker that
	// stored the job's end in the row and then died.
	maxAge = 10 * time.Second

	// redisTime bounds one call of Redis. After that the row is read instead.
	redisTime = time.Second
)

// A Status is the served status of a job.
type Status struct {
	ID         string
	Kind       journal.Kind
	Room       string
	State      journal.State
	Generation int

	// Error says why the job failed, "" unless it did.
	Error string

	// WaitsFor is what the job waits for, in words, "" if it works or only waits for its turn.
	WaitsFor string

	// Progress is the job's checkpoint in JSON, "" before the first batch.
	Progress string
}

// StatusOf returns the status of a job from its row.
func StatusOf(job journal.Job) Status {
	status := Status{
		ID: job.ID, Kind: job.Kind, Room: job.Room, State: job.State,
		Generation: job.Generation, Error: job.Error, Progress: string(job.Checkpoint),
	}
	if !job.State.Ended() {
		status.WaitsFor = job.WaitsFor
	}
	return status
}

// A PurgeProgress is what a purge has done so far, with the names of its checkpoint.
type PurgeProgress struct {
	Phase         string `json:"phase"`
	EventsDeleted int64  `json:"events_deleted"`
	EventsKept    int64  `json:"events_kept"`
	Batches       int64  `json:"batches"`

	// CompleteBelow is the depth below which the room is purged, nil if that is not known.
	CompleteBelow *int64 `json:"complete_below,omitempty"`
}

// PurgeProgress reads the status of a purge. It is nil before the first batch.
func (s Status) PurgeProgress() *PurgeProgress {
	var progress PurgeProgress
	if json.Unmarshal([]byte(s.Progress), &progress) != nil || progress.Batches == 0 {
		return nil
	}
	return &progress
}

// A Board serves the statuses of jobs, from Redis if possible.
type Board struct {
	journal *journal.Journal
	redis   redis.UniversalClient
	names   *redisdb.Names
	ttl     time.Duration
	log     *slog.Logger

	// failed, unless nil, is called for each failed operation in Redis.
	failed func(operation string)
}

// NewBoard returns a Board that keeps the status of an ended job for ttl.
func NewBoard(db *postgres.DB, client redis.UniversalClient, ttl time.Duration, log *slog.Logger) *Board {
	return &Board{journal: journal.New(db), redis: client, ttl: ttl, log: log}
}

// In makes the Board use the keys of the deployment with these names. Without a call they
// are those of no deployment. Call it before all other methods; the last call wins.
func (b *Board) In(names *redisdb.Names) *Board {
	b.names = names
	return b
}

// Names returns the names of the Board's deployment.
func (b *Board) Names() *redisdb.Names { return b.names }

// OnFailure sets a function that is called each time Redis fails to store or return
// a status. The operation is "post" or "read". Call it before all other methods; the
// last call wins.
func (b *Board) OnFailure(failed func(operation string)) { b.failed = failed }

func (b *Board) fail(operation string) {
	if b.failed != nil {
		b.failed(operation)
	}
}

// Status returns the status of a job of that kind. It is [ErrNotFound] if there is
// no such job, or if it ended longer ago than the time to live. If Redis is down or
// does not have the status, Status reads the row.
func (b *Board) Status(ctx context.Context, kind journal.Kind, id string) (Status, error) {
	if !ValidID(id) {
		return Status{}, ErrNotFound
	}
	status, ok, err := b.read(ctx, id)
	if err != nil {
		b.fail("read")
		b.log.WarnContext(ctx, "status not read from Redis", "job", id, "error", err)
	}
	if !ok {
		job, err := b.journal.Job(ctx, id)
		switch {
		case errors.Is(err, postgres.ErrNotFound):
			return Status{}, ErrNotFound
		case err != nil:
			return Status{}, fmt.Errorf("read the status of job %s: %w", id, err)
		}
		status = StatusOf(job)
		left := b.ttl
		if status.State.Ended() {
			left -= job.EndedFor
		}
		if left <= 0 {
			return Status{}, ErrNotFound
		}
		b.post(ctx, status, left)
	}
	if status.Kind != kind {
		return Status{}, ErrNotFound
	}
	return status, nil
}

// TTL returns how long the status of an ended job is kept.
func (b *Board) TTL() time.Duration { return b.ttl }

// Post writes a status to Redis, unless a newer one is there. It only logs an error
// of Redis: the row has the status too, and a reader posts it again.
func (b *Board) Post(ctx context.Context, status Status) { b.post(ctx, status, b.ttl) }

func (b *Board) post(ctx context.Context, status Status, ttl time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, redisTime)
	defer cancel()
	err := postStatus.Run(ctx, b.redis, []string{b.names.JobStatus(status.ID)},
		status.Generation, strconv.FormatBool(status.State.Ended()), ttl.Milliseconds(),
		"kind", string(status.Kind), "room", status.Room, "state", string(status.State),
		"error", status.Error, "waits_for", status.WaitsFor, "progress", status.Progress).Err()
	if err != nil {
		b.fail("post")
		b.log.WarnContext(ctx, "status not posted to Redis", "job", status.ID, "error", err)
	}
}

// postStatus writes a job's status, unless the stored one has a higher generation, or is
// the end of the job in the same generation. A job that is retried after its end has a
// higher one. O(1).
//
//	KEYS[1]  the status, a HASH
//	ARGV[1]  the job's generation
//	ARGV[2]  "true" if this is its end
//	ARGV[3]  time to live in milliseconds
//	ARGV[4…] further fields and values
//	returns  1 if written, 0 if not
var postStatus = redis.NewScript(`
	local there = redis.call('HMGET', KEYS[1], 'generation', 'ended')
	local before, now = tonumber(there[1] or ''), tonumber(ARGV[1])
	if before and (before > now or (before == now and there[2] == 'true')) then
		return 0
	end
	local time = redis.call('TIME')
	redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'ended', ARGV[2],
		'posted', time[1] * 1000 + math.floor(time[2] / 1000), unpack(ARGV, 4))
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
	return 1`)

// readStatus reads a job's status, and the clock of the server that has it: the
// masters of a Cluster have one each. O(1).
//
//	KEYS[1]  the status, a HASH
//	returns  the server's time in Unix milliseconds, then the fields, each
//	         followed by its value
var readStatus = redis.NewScript(`
	local now = redis.call('TIME')
	local answer = redis.call('HGETALL', KEYS[1])
	table.insert(answer, 1, string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
	return answer`)

// read returns the status in Redis, and whether it exists and is recent enough.
func (b *Board) read(ctx context.Context, id string) (Status, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, redisTime)
	defer cancel()
	answer, err := readStatus.Run(ctx, b.redis, []string{b.names.JobStatus(id)}).StringSlice()
	if err != nil {
		return Status{}, false, err
	}
	fields := map[string]string{}
	for i := 1; i+1 < len(answer); i += 2 {
		fields[answer[i]] = answer[i+1]
	}
	now, err := strconv.ParseInt(answer[0], 10, 64)
	if err != nil {
		return Status{}, false, err
	}
	generation, err1 := strconv.Atoi(fields["generation"])
	posted, err2 := strconv.ParseInt(fields["posted"], 10, 64)
	status := Status{
		ID: id, Kind: journal.Kind(fields["kind"]), Room: fields["room"], State: journal.State(fields["state"]),
		Generation: generation, Error: fields["error"], WaitsFor: fields["waits_for"], Progress: fields["progress"],
	}
	// After a failover the clock may be another server's, ahead or behind.
	age := time.Duration(now-posted) * time.Millisecond
	return status, err1 == nil && err2 == nil && (status.State.Ended() || age.Abs() < maxAge), nil
}
