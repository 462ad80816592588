// Package progress shows jobs: while they run as bars on a terminal and as lines
// elsewhere, and one job in all its details.
//
// It promises that what a job says of itself cannot do anything to the terminal. It must
// never ask for a job: it only shows those that it is given.
package progress
