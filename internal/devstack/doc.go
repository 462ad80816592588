// Package devstack starts a private PostgreSQL and a private Redis, also as a
// Cluster or with a sentinel, from the programs that are installed on the
// machine: for "lethe dev", and for every test.
//
// It promises that a server listens on 127.0.0.1 alone, on a free port; that
// what it returns answers; that the servers live no longer than the process
// that started them, even if that process is killed; and that root is not
// needed, and dropped where there is. It must never touch a server that it did
// not start, and its servers must never hold what matters: anyone on the
// machine may connect, without a password.
package devstack
