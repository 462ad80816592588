package lock

import "github.com/redis/go-redis/v9"

// Leases are timed by the Redis server's own clock, so that no two clocks are
// ever compared; only durations cross the network. A wake-up that cannot be
// published, as when the user may not, costs those who wait a moment and nobody
// else anything: so it is called with pcall.

// scriptAcquire adds a lease unless a writer is in the room or waits for it. A
// reader who is refused leaves a mark, to be let in before the next writer, and
// the last of those who is let in wakes the writer.
// O(log n + m) for n leases of which m have expired.
//
// KEYS[1] -> redisdb.RoomWriteLock
// KEYS[2] -> redisdb.RoomReadLeases
// KEYS[3] -> redisdb.RoomRefusedReaders
// ARGV[1] -> id of the lease
// ARGV[2] -> its time in milliseconds
// ARGV[3] -> id of the mark
// ARGV[4] -> how long the mark lasts, in milliseconds
// ARGV[5] -> redisdb.RoomWakeUp
//
// Returns 1 when the lease was added, 0 when the reader was refused.
var scriptAcquire = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call("EXISTS", KEYS[1]) == 1 then
	redis.call("ZADD", KEYS[3], now + ARGV[4], ARGV[3])
	redis.call("PEXPIRE", KEYS[3], ARGV[4])
	return 0
end
redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", now)
redis.call("ZADD", KEYS[2], now + ARGV[2], ARGV[1])
if redis.call("PTTL", KEYS[2]) < tonumber(ARGV[2]) then
	redis.call("PEXPIRE", KEYS[2], ARGV[2])
end
if redis.call("ZREM", KEYS[3], ARGV[3]) == 1 and redis.call("EXISTS", KEYS[3]) == 0 then
	redis.pcall("PUBLISH", ARGV[5], "")
end
return 1
`)

// scriptRenew gives a lease more time, if it has not expired. It does not look
// for a writer: a reader who is in may finish.
// O(log n) for n leases.
//
// KEYS[1] -> redisdb.RoomReadLeases
// ARGV[1] -> id of the lease
// ARGV[2] -> its time from now, in milliseconds
//
// Returns 1 when the lease was renewed, 0 when it has expired.
var scriptRenew = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = redis.call("ZSCORE", KEYS[1], ARGV[1])
if not expiry or tonumber(expiry) <= now then
	return 0
end
redis.call("ZADD", KEYS[1], now + ARGV[2], ARGV[1])
if redis.call("PTTL", KEYS[1]) < tonumber(ARGV[2]) then
	redis.call("PEXPIRE", KEYS[1], ARGV[2])
end
return 1
`)

// scriptRelease removes a lease. The last reader out wakes the writer, if one
// waits. It also removes the mark that a reader leaves on a master which refuses
// it while others let it in; the last one wakes the writers who gave way.
// O(log n) for n leases.
//
// KEYS[1] -> redisdb.RoomWriteLock
// KEYS[2] -> redisdb.RoomReadLeases
// KEYS[3] -> redisdb.RoomRefusedReaders; none to keep the mark
// ARGV[1] -> id of the lease
// ARGV[2] -> redisdb.RoomWakeUp
// ARGV[3] -> id of the mark
//
// Returns 1 when the lease was there, else 0.
var scriptRelease = redis.NewScript(`
local removed = redis.call("ZREM", KEYS[2], ARGV[1])
local wake = removed == 1 and redis.call("EXISTS", KEYS[1]) == 1 and redis.call("EXISTS", KEYS[2]) == 0
if KEYS[3] and redis.call("ZREM", KEYS[3], ARGV[3]) == 1 then
	wake = wake or redis.call("EXISTS", KEYS[3]) == 0
end
if wake then
	redis.pcall("PUBLISH", ARGV[2], "")
end
return removed
`)

// scriptRefused counts the readers who were refused and have yet to be let in.
// O(log n + m) for n readers of whom m have been given up.
//
// KEYS[1] -> redisdb.RoomRefusedReaders
//
// Returns their number.
var scriptRefused = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 0 then
	return 0
end
local time = redis.call("TIME")
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", time[1] * 1000 + math.floor(time[2] / 1000))
return redis.call("ZCARD", KEYS[1])
`)

// scriptDrain counts the readers inside. The answer is only worth something
// while the writer owns the mutex, for then nobody new can come in.
// O(log n + m) for n leases of which m have expired.
//
// KEYS[1] -> redisdb.RoomWriteLock
// KEYS[2] -> redisdb.RoomReadLeases
// ARGV[1] -> the writer's value of the mutex
//
// Returns the number of live leases, or -1 when the mutex is not the writer's.
var scriptDrain = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
	return -1
end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", now)
return redis.call("ZCARD", KEYS[2])
`)

// scriptUnlock is redsync's Unlock, and wakes everyone who waits. O(1).
//
// KEYS[1] -> redisdb.RoomWriteLock
// ARGV[1] -> the writer's value of the mutex
// ARGV[2] -> redisdb.RoomWakeUp
//
// Returns 1 when the mutex was the writer's, else 0.
var scriptUnlock = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
	return 0
end
redis.call("DEL", KEYS[1])
redis.pcall("PUBLISH", ARGV[2], "")
return 1
`)
