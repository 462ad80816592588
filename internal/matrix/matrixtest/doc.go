// Package matrixtest checks in tests what Lethe writes into rooms. It reads the power
// levels of a room, as homeservers do.
//
// It promises to refuse power levels that a homeserver refuses. Only tests may import it.
package matrixtest
