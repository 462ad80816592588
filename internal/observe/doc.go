// Package observe is how a Lethe process is seen from outside: its log, its
// metrics, its traces, its health, and the HTTP server that shows metrics and
// health and also serves the API. It is the only package that knows OpenTelemetry.
//
// It promises that probing is cheap however often it is done, that a server stops
// within the time that it was given, that nobody waits for a trace to be sent, and
// that traces which nobody asked for cost nothing. It must never decide anything about
// a job, and never write a secret: what it logs, counts or answers may be read
// by anyone.
//
// A logger is passed explicitly, never in a context. What its lines are about is in
// the context: whoever runs a job says so once, by [About], with the attributes
// job, room and kind.
package observe
