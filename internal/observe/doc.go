// Package observe makes a Lethe process visible from outside: its log, its metrics,
// its traces and its health, and the HTTP server that serves metrics, health and
// the API. It is the only package that uses OpenTelemetry.
//
// Probes are cheap, however frequent they are. A server stops within the time that
// it was given. Work never waits for a trace to be sent. The package decides
// nothing about a job, and writes no secret: anyone may read what it logs, counts
// or answers.
//
// A logger is always a parameter, and never in a context. The context holds what the
// lines are about: a worker calls [About] once for each run of a job, with the
// attributes job, room and kind.
package observe
