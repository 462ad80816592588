// Package retention knows how long events are kept: policies of rooms, the
// server's own, and the jobs that purge by them.
//
// It promises that the same configuration and the same rows always give the same
// decision. It must never read a clock or a database: whoever asks tells it what
// there is and what time it is. It reads no file but those of the time zones that
// an operator names.
package retention
