// Package synapserun runs a Synapse on a database, by a command of the operator, and asks it
// to purge and to delete, so that a benchmark can compare it with Lethe.
//
// It promises that the Synapse has stopped when [Synapse.On] returns, and that it was the
// only homeserver at its URL. It must never write to the database itself, and never name
// the access token in an error.
package synapserun
