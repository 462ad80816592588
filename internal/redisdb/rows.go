package redisdb

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// takeRows takes rows from the bucket, which may go into debt, and returns how long
// it takes to pay the debt. O(1).
//
//	KEYS[1]  the bucket, RetentionRows or KindRows
//	ARGV[1]  the rows to take, 0 to ask only
//	ARGV[2]  the rows that flow in per second, and the size of the bucket
//	returns  the wait in milliseconds, 0 for none
var takeRows = redis.NewScript(`
	local time = redis.call('TIME')
	local now = time[1] * 1000 + math.floor(time[2] / 1000)
	local rate = tonumber(ARGV[2])
	local there = redis.call('HMGET', KEYS[1], 'tokens', 'at')
	local tokens, at = tonumber(there[1] or ''), tonumber(there[2] or '')
	if not tokens or not at or tokens ~= tokens or at ~= at then
		tokens, at = rate, now
	end
	-- After a failover the clock may be behind. A debt is an hour's at most.
	tokens = math.min(rate, tokens + math.max(0, now - at) * rate / 1000) - tonumber(ARGV[1])
	tokens = math.max(tokens, -3600 * rate)
	redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', now))
	local wait = math.max(0, math.ceil(-tokens * 1000 / rate))
	redis.call('PEXPIRE', KEYS[1], wait + 60000)
	return wait`)

// TakeRows takes deleted rows from a bucket that the fleet shares, into which perSecond
// rows flow: [Names.RetentionRows] or one of [Names.KindRows]. It returns how long it takes until the bucket's debt is
// paid, 0 if there is none. With 0 rows it only asks.
func TakeRows(ctx context.Context, client redis.Scripter, bucket string, rows int64, perSecond int) (debt time.Duration, err error) {
	wait, err := takeRows.Run(ctx, client, []string{bucket}, rows, perSecond).Int64()
	if err != nil {
		return 0, fmt.Errorf("take rows from the bucket: %w", err)
	}
	return time.Duration(wait) * time.Millisecond, nil
}
