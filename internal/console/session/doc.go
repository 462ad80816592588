// Package session keeps the sessions of the console's users, in Redis.
//
// It promises that a session ends when it is told to, and at its time at the latest, in all
// processes at once. What Redis has of a session is sealed with a key that only the browser
// has: a copy of Redis shows no access token, and its owner cannot make a session.
//
// It must never decide who may have a session, nor write a secret or an access token into
// an error.
package session
