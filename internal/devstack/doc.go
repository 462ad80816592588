// Package devstack starts a private PostgreSQL and a private Redis, for "lethe dev" and
// for the tests. It uses the programs that are installed on the machine.
//
// It promises that a server listens only on 127.0.0.1, on a free port; that a returned
// server accepts connections; that a server ends with the process that started it, even
// if that process is killed; and that servers do not run as root. It must never touch a
// server that it did not start. Its servers must never contain important data, because
// every user of the machine can connect without a password.
//
// Only tests kill, pause and restart servers, drop databases, and give Redis arguments.
package devstack
