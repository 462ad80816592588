package lock

import "time"

// The scripts of a reader's lease.
var (
	ScriptAcquire = scriptAcquire
	ScriptRelease = scriptRelease
)

// NeverPoll makes waiters try again only after a wake-up.
func (l *Locker) NeverPoll() { l.firstPause = time.Hour }
