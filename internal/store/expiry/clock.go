package expiry

import "time"

// Clock returns the time that decides what has expired. It is the database's time,
// which read returns, or this machine's, whichever is earlier: a clock that is ahead
// must not delete an event days too soon. It fails if read does.
func Clock(read func() (time.Time, error)) (time.Time, error) {
	local := time.Now()
	now, err := read()
	if err == nil && local.Before(now) {
		now = local
	}
	return now, err
}
