// Package vacuum knows when the tables that jobs have emptied are vacuumed, and what is
// done where no role may vacuum.
//
// It promises that nothing that it does delays a job, that one worker of the fleet is at it
// at a time, and that another goes on where one was killed. It must never vacuum a table
// that few rows were deleted from, or go on when its worker stops.
package vacuum
