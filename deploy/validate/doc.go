// Package validate knows what must be true of the files in deploy and of
// docker-compose.yml, which no test runs: its own tests read them with the
// libraries of those who will. It is a module of its own, so that what these need
// stays out of Lethe's go.mod.
//
// It promises that nothing misspelt and no setting that Lethe refuses is in them,
// that everything which they name is there, and that no container has more rights
// than it needs. It must never need a container engine, a cluster or a network.
package validate
