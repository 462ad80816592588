package lock

import "github.com/redis/go-redis/v9"

// Leases expire by the Redis server's own clock. Only durations cross the network,
// so that no two clocks are compared. Wake-ups are published with pcall, because
// the user may lack the permission: the waiters then only wait a little longer.

// scriptAcquire adds a lease, unless a writer is in the room or waits for its
// readers. A refused reader leaves a mark, so that it goes before the next writer.
// The last marked reader that gets its lease wakes the writer.
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
// Returns 1 if the lease was added, 0 if the reader was refused.
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

// scriptRenew gives a lease more time, if it has not expired. It ignores writers,
// because a reader inside may finish.
// O(log n) for n leases.
//
// KEYS[1] -> redisdb.RoomReadLeases
// ARGV[1] -> id of the lease
// ARGV[2] -> its time from now, in milliseconds
//
// Returns 1 if the lease was renewed, 0 if it has expired.
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

// scriptRelease removes a lease. The last reader wakes the writer, if one waits. The
// script also removes the reader's mark, which exists on masters that refused the
// reader while others gave it the lease. The last mark wakes the writers that gave
// way.
// O(log n) for n leases.
//
// KEYS[1] -> redisdb.RoomWriteLock
// KEYS[2] -> redisdb.RoomReadLeases
// KEYS[3] -> redisdb.RoomRefusedReaders; absent to keep the mark
// ARGV[1] -> id of the lease
// ARGV[2] -> redisdb.RoomWakeUp
// ARGV[3] -> id of the mark
//
// Returns 1 if the lease existed, else 0.
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

// scriptRefused counts the refused readers that still wait.
// O(log n + m) for n marks of which m have expired.
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

// scriptDrain counts the readers inside. The count is valid only while the writer
// owns the mutex, because then no new reader can enter.
// O(log n + m) for n leases of which m have expired.
//
// KEYS[1] -> redisdb.RoomWriteLock
// KEYS[2] -> redisdb.RoomReadLeases
// ARGV[1] -> the writer's value of the mutex
//
// Returns the number of live leases, or -1 if the writer does not own the mutex.
var scriptDrain = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
	return -1
end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", now)
return redis.call("ZCARD", KEYS[2])
`)

// scriptUnlock is redsync's Unlock, and also wakes all waiters. A mark that has just
// expired counts too: its reader has given up, or is about to ask again. O(1).
//
// KEYS[1] -> redisdb.RoomWriteLock
// KEYS[2] -> redisdb.RoomRefusedReaders
// ARGV[1] -> the writer's value of the mutex
// ARGV[2] -> redisdb.RoomWakeUp
//
// Returns 0 if the writer did not own the mutex, else 1, or 2 if refused readers wait.
var scriptUnlock = redis.NewScript(`
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
	return 0
end
redis.call("DEL", KEYS[1])
redis.pcall("PUBLISH", ARGV[2], "")
return 1 + redis.call("EXISTS", KEYS[2])
`)
