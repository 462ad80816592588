// Package redisdb opens connections to Redis, names every key that Lethe keeps
// there, and checks the server's configuration.
//
// It promises that all keys of a room, and all keys of a job, share a Redis Cluster
// slot, and that every key has one meaning. It must never hold data that cannot be
// lost: Redis dispatches, and PostgreSQL is the source of truth.
package redisdb
