package lock

import "github.com/redis/go-redis/v9"

// Leases are timed by the Redis server's own clock, so that no two clocks are
// ever compared; only durations cross the network.

// scriptAcquire adds a lease unless a writer is in the room or waits for it. A
// reader who is refused leaves a mark, to be let in before the next writer.
// O(log n + m) for n leases of which m have expired.
//
// KEYS[1] -> redisdb.RoomWriteLock
// KEYS[2] -> redisdb.RoomReadLeases
// KEYS[3] -> redisdb.RoomRefusedReader
// ARGV[1] -> id of the lease
// ARGV[2] -> its time in milliseconds
// ARGV[3] -> how long the mark lasts, in milliseconds
//
// Returns 1 when the lease was added, 0 when the reader was refused.
var scriptAcquire = redis.NewScript(`
if redis.call("EXISTS", KEYS[1]) == 1 then
	redis.call("SET", KEYS[3], "", "PX", ARGV[3])
	return 0
end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", now)
redis.call("ZADD", KEYS[2], now + ARGV[2], ARGV[1])
if redis.call("PTTL", KEYS[2]) < tonumber(ARGV[2]) then
	redis.call("PEXPIRE", KEYS[2], ARGV[2])
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
