// Package lock is a read/write lock on rooms, across processes, in Redis:
// [Locker.Lock] takes an exclusive lock, [Locker.RLock] a shared lease. It uses
// one Redis, a Redis Cluster, or an odd number of independent masters of which
// more than half decide, as in the Redlock algorithm.
//
// A writer locks a redsync mutex, which refuses new readers, waits for the
// readers inside to leave, and takes a fence token from PostgreSQL. Refused
// readers go before the next writer, so neither side starves. A release is
// published to the waiters, which also try again after a pause.
//
// It promises that, while Redis keeps its data, a room with a writer has no other
// users; that the lock or lease of a dead process expires after [Options.Lease];
// and that the context of a lock or lease ends when the lock or lease is lost. A
// minority of several masters may be down or black-holed. A master that has lost
// its data must stay down for [Options.Lease].
//
// Redis can lose its data, and a process can be stopped between a check and a
// write. So a lock only says who should write. The fence token, which the
// writer's own transaction checks, decides who can. This package must never be
// the only protection between two writers, and it knows nothing of their writes.
package lock
