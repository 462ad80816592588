// Package redisdb knows what Lethe keeps in Redis: how it is reached, the name
// of every key, and what the server must be configured like.
//
// It promises that all keys of one room, and all keys of one job, share a
// Redis Cluster slot, and that no two things share a key. It must never hold
// what cannot be lost: Redis dispatches, PostgreSQL is the truth.
package redisdb
