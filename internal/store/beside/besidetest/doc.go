// Package besidetest stands in for a running Synapse in tests: its tables, the sessions
// and locks by which it is seen, and a process that listens for invalidations.
//
// It promises that its tables have the columns, constraints and triggers of Synapse
// 1.160, and that its process reads invalidations as one of Synapse does. It must never
// be imported outside of tests.
package besidetest
