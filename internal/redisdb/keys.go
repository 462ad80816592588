package redisdb

// asynq names its own keys, "asynq:…"; all of Lethe's begin with "lethe:".
// What stands between braces is the hash tag, which decides the Cluster slot.
// A room id begins with "!" and a job id is letters, so no tag is ever empty;
// a room id that holds a brace still gives all of its keys the same tag.

// RoomWriteLock names the STRING of the redsync mutex: its value is the
// owner's, and its existence means that a writer holds the room or waits for
// its readers to leave.
func RoomWriteLock(room string) string { return "lethe:lock:{" + room + "}:w" }

// RoomReadLeases names the ZSET of shared leases: member is the lease's id,
// score the Unix millisecond of the Redis server's clock when it expires.
func RoomReadLeases(room string) string { return "lethe:lock:{" + room + "}:r" }

// RoomRefusedReaders names the ZSET of readers who were refused and have yet to
// be let in, before the next writer: member is the reader's mark, score the Unix
// millisecond of the Redis server's clock when the reader is given up.
func RoomRefusedReaders(room string) string { return "lethe:lock:{" + room + "}:q" }

// RoomWakeUp names the channel on which those who wait for the room are told
// that it is worth another look. In a Cluster its subscribers go to the node
// that has the room's keys.
func RoomWakeUp(room string) string { return "lethe:lock:{" + room + "}:wake" }

// RetentionRows names the HASH of the token bucket that the purges of sweeps take
// the rows from that they delete: tokens is how many there are, below 0 if too many
// were taken, and at the Unix millisecond of the Redis server's clock when that was
// so.
func RetentionRows() string { return "lethe:retention:rows" }

// JobStatus names the HASH of a job's status.
func JobStatus(id string) string { return "lethe:job:{" + id + "}" }
