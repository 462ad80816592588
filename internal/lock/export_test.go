package lock

import "time"

// What a reader's lease cannot do without.
var (
	ScriptAcquire = scriptAcquire
	ScriptRelease = scriptRelease
)

// NeverPoll makes those who wait look only when woken.
func (l *Locker) NeverPoll() { l.firstPause = time.Hour }
