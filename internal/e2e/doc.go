// Package e2e tests the built binaries from outside: real processes on a real
// PostgreSQL and Redis, which it kills, stops, flushes and restarts.
//
// It promises that a test here fails if an operator would see the fault. It has
// no code of its own, and must never reach into a process other than by what an
// operator has: HTTP, SQL, Redis and signals.
package e2e
