package mutants

// oneOwner breaks the locks, leases and fences of rooms, and the checks inside a batch.
var oneOwner = []mutant{
	{
		name: `a stale owner's batch commits`,
		file: `internal/store/journal/fence.go`,
		old: `		case newest != fence:
`,
		text: `		case newest < fence:
`,
		tests: `TestBatchWithoutTheNewest TestFences TestBatchWaits`,
	},
	{
		name:  `the fence is read without a lock`,
		file:  `internal/store/journal/fence.go`,
		old:   "WHERE room_id = $1 FOR SHARE`",
		text:  "WHERE room_id = $1`",
		tests: `TestBatch TestNextFence TestFence`,
	},
	{
		name:  `the same fence is given out twice`,
		file:  `internal/store/journal/fence.go`,
		old:   `greatest(f.fence + 1, excluded.fence)`,
		text:  `greatest(f.fence, excluded.fence)`,
		tests: `TestFences TestNextFence`,
	},
	{
		name:  `a bump of the fence waits without end`,
		file:  `internal/store/journal/fence.go`,
		old:   `postgres.Milliseconds(fenceWait))`,
		text:  `postgres.Milliseconds(0))`,
		tests: `TestNextFence TestFence`,
	},
	{
		name:  `a stopped worker holds its locks for ever`,
		file:  `internal/store/journal/batch.go`,
		old:   `postgres.Milliseconds(lease), postgres.Milliseconds(rowLockWait)`,
		text:  `postgres.Milliseconds(0), postgres.Milliseconds(rowLockWait)`,
		tests: `TestBatch`,
	},
	{
		name:  `a batch waits without end for a row`,
		file:  `internal/store/journal/batch.go`,
		old:   `postgres.Milliseconds(lease), postgres.Milliseconds(rowLockWait)`,
		text:  `postgres.Milliseconds(lease), postgres.Milliseconds(0)`,
		tests: `TestBatch`,
	},
	{
		name:  `a run that owns its job no more commits`,
		file:  `internal/store/journal/batch.go`,
		old:   `WHERE id = $1 AND generation = $2 AND attempt = $3 AND state = 'running' RETURNING 1`,
		text:  `WHERE id = $1 AND $2::int IS NOT NULL AND $3::int IS NOT NULL AND state = 'running' RETURNING 1`,
		tests: `TestBatchOfASuperseded`,
	},
	{
		name: `a paused job commits`,
		file: `internal/store/journal/batch.go`,
		old: `		checkRoom(pipeline, lock.Room, lock.Fence)
		checkPause(pipeline, run.JobID)
`,
		text: `		checkRoom(pipeline, lock.Room, lock.Fence)
`,
		dir:   `internal/tasks`,
		tests: `TestPauseOfEachScope`,
	},
	{
		name: `a batch overlooks a hold`,
		file: `internal/store/journal/fence.go`,
		old: `	pipeline.Queue(holdReason, room).QueryRow(checkHold)
`,
		text:  ``,
		tests: `TestBatchSeesAHold TestPlaceHold TestHeld`,
	},
	{
		name: `a lease that comes after its readers have left stays`,
		file: `internal/lock/readers.go`,
		old: `	unused := s.users == 0
	r.mu.Unlock()
`,
		text: `	unused := false
	r.mu.Unlock()
`,
		tests: `TestLeaseWithoutReaders`,
	},
	{
		name: `expired leases keep writers out`,
		file: `internal/lock/scripts.go`,
		old: `redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", now)
return redis.call("ZCARD", KEYS[2])`,
		text:  `return redis.call("ZCARD", KEYS[2])`,
		tests: `TestExpiredLease`,
	},
	{
		name:  `a cancelled caller leaves the room locked`,
		file:  `internal/lock/lock.go`,
		old:   `TryLockContext(context.WithoutCancel(ctx))`,
		text:  `TryLockContext(ctx)`,
		tests: `TestOneRedis TestThreeMasters`,
	},
	{
		name: `a lock that Redis denies goes on`,
		file: `internal/lock/lock.go`,
		old: `		if errors.Is(err, ErrTaken) {
			err = ErrLockLost
		}
		return time.Time{}, err`,
		text:  `		return time.Time{}, err`,
		tests: `TestOneRedis`,
	},
	{
		name: `a lost lease goes on`,
		file: `internal/lock/lease.go`,
		old: `		case errors.Is(err, ErrLockLost):
			t.cancel(ErrLockLost)
			return
`,
		text:  ``,
		tests: `TestOneRedis`,
	},
	{
		name:  `a lock lives by its timer alone`,
		file:  `internal/lock/lease.go`,
		old:   `return t.ctx.Err() == nil && time.Now().Before(*t.until.Load())`,
		text:  `return t.ctx.Err() == nil`,
		tests: `TestOneRedis`,
	},
	{
		name: `an extension does not move the end`,
		file: `internal/lock/lease.go`,
		old: `			t.expiry.Reset(time.Until(until))
`,
		text:  ``,
		tests: `TestOneRedis`,
	},
	{
		name: `a writer enters beside readers`,
		file: `internal/lock/lock.go`,
		old: `		return readers == 0, err
`,
		text: `		return readers >= 0, err
`,
		tests: `TestOneRedis`,
	},
	{
		name: `a reader enters beside a writer`,
		file: `internal/lock/scripts.go`,
		old: `if redis.call("EXISTS", KEYS[1]) == 1 then
	redis.call("ZADD", KEYS[3]`,
		text: `if redis.call("EXISTS", KEYS[1]) == 2 then
	redis.call("ZADD", KEYS[3]`,
		tests: `TestOneRedis`,
	},
	{
		name: `a writer does not give way to refused readers`,
		file: `internal/lock/lock.go`,
		old: `		return refused == 0, err
`,
		text: `		return refused >= 0, err
`,
		tests: `TestOneRedis`,
	},
	{
		name:  `one of three masters decides`,
		file:  `internal/lock/masters.go`,
		old:   `return len(m.nodes)/2 + 1 }`,
		text:  `return 1 }`,
		tests: `TestThreeMasters TestAMinority TestLeaseOfAMinority`,
	},
}
