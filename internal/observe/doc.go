// Package observe is how a Lethe process is seen from outside: its log, its
// metrics, its health, and the HTTP server that shows the last two and also
// serves the API.
//
// It promises that probing is cheap however often it is done, and that a server
// stops within the time that it was given. It must never decide anything about
// a job, and never write a secret: what it logs, counts or answers may be read
// by anyone.
//
// A logger is passed explicitly, never in a context. Whoever runs a job makes
// its logger once, with the attributes job, room and kind.
package observe
