// Growth draws how the time of each step grows, from the file that lethe bench --case growth
// has written: a picture for events, rooms and jobs, each with the lines of a step that
// always takes as long and of one that takes as long as there is more to do.
//
// It is a module of its own, so that the library for plots is no dependency of Lethe's. It
// promises that a file which it cannot read leaves the last picture as it is. It must never
// measure anything itself.
package main
