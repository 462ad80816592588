// Package pressure knows how hard the database server has to work apart from Lethe: how far
// its standbys and its archive are behind, how long their WAL can still be kept, which
// tables are vacuumed, how old the oldest snapshot is, and which other sessions wait for
// Lethe's.
//
// It promises that a look reads statistics only and waits for no lock of a table. It must
// never take what the role may not see for calm: such a figure is unknown.
package pressure
