// Package lock lets one writer or many readers into a room, across processes,
// by way of Redis: [Locker.Lock] is exclusive, [Locker.RLock] gives a shared
// lease. The Redis is one, or a Redis Cluster, or an odd number of independent
// masters of which more than half decide, as in the Redlock algorithm.
//
// A writer locks a redsync mutex, which turns new readers away, waits for the
// readers inside to leave, and takes a fence token from PostgreSQL. Readers who
// were turned away go before the next writer, so neither side starves. Whoever
// leaves publishes it to those who wait, who also look from time to time.
//
// It promises that, while Redis keeps its data, nobody is in a room together
// with its writer; that a process that vanished is forgotten after
// [Options.Lease]; and that the context of a lock or lease ends when it is lost.
// Of several masters a minority may be away, black-holed ones included; one that
// lost its data must stay away for [Options.Lease].
//
// Redis can lose its data, and a process can be stopped between a check and a
// write. So a lock only says who should write: the fence token, checked in the
// writer's own transaction, decides who can. This package must never be the
// only thing between two writers, and it knows nothing of what they write.
package lock
