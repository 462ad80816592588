// Package retention decides how long events are kept. It implements the policies of
// rooms, the default policy, and the jobs that purge rooms by these.
//
// It promises that the same configuration and the same rows always give the same
// decision. It must never read a clock or a database: the caller passes the time and
// the rows. It reads only the files of the time zones in the configuration.
package retention
