// Package gobench writes the result of a benchmark in Go's format for benchmarks, which
// benchstat compares.
//
// It promises that a result always gets the same names, and that results of different
// sizes or tables are not compared: benchstat keeps them apart by the lines at the
// beginning. It must never round a value, or write a path or an address.
package gobench
