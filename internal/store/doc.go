// Package store is the parent of all packages that contain SQL:
//
//   - postgres: the pool, transactions and snapshots
//   - journal: the schema lethe, with jobs, batches, fences, holds and schedules
//   - timeline: pages of events, and what decides who may see them
//   - roomwriter: events that Lethe writes
//   - admin: what the admin API reads
//   - expiry: retention policies and abandoned rooms
//   - purge: deleting history, rooms and state groups
//   - beside: what a running Synapse shares with Lethe through the database
//   - census: how a database differs from Synapse's tables as Lethe knows them
//   - checkup: privileges and indexes that a database lacks
//   - migrate: the versions of the schema
//
// No package outside of it contains SQL. It must never have code itself.
package store
