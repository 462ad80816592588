// Package store is the roof of all packages that know SQL, which is below it alone:
//
//   - postgres: the pool, transactions and snapshots
//   - journal: the schema lethe, with jobs, batches, fences, holds and schedules
//   - timeline: pages of events, and what decides who may see them
//   - roomwriter: events that Lethe writes
//   - admin: what the admin API reads
//   - expiry: retention policies and abandoned rooms
//   - purge: deleting history, rooms and state groups
//   - migrate: the versions of the schema
//
// It promises nothing by itself, and must never have code.
package store
