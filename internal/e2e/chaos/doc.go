// Package chaos tests a whole fleet of the built programs under faults: killed and stopped
// processes, servers that restart, fill up, refuse or lose their data, connections that are
// cut, slow or silent, and locks of other sessions.
//
// It promises that a seed always gives the same plan of faults, and that a run fails if an
// accepted job has no end or an end without a cause, if a room differs from a run without
// faults, or if a process or a connection is left over. It has no code of its own, and must
// never reach into a process other than by what an operator has: HTTP, SQL, Redis and
// signals.
package chaos
