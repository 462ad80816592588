package redisdb

// asynq's keys begin with "asynq:", and Lethe's with "lethe:". The text in braces is
// the hash tag, which decides the Cluster slot. A room id begins with "!" and a job
// id consists of letters, so the tag is never empty. If a room id contains a brace,
// all keys of the room still have the same tag.

// RoomWriteLock names the STRING of the redsync mutex. Its value belongs to the
// owner. The key exists while a writer has the room or waits for its readers to
// leave.
func RoomWriteLock(room string) string { return "lethe:lock:{" + room + "}:w" }

// RoomReadLeases names the ZSET of shared leases. A member is a lease's id, and its
// score the time when the lease expires, in Unix milliseconds of the Redis server's
// clock.
func RoomReadLeases(room string) string { return "lethe:lock:{" + room + "}:r" }

// RoomRefusedReaders names the ZSET of refused readers, which enter before the next
// writer. A member is a reader's mark, and its score the time when the mark expires,
// in Unix milliseconds of the Redis server's clock.
func RoomRefusedReaders(room string) string { return "lethe:lock:{" + room + "}:q" }

// RoomWakeUp names the channel of messages to waiters that the room may be free. In
// a Cluster its subscribers use the node that has the room's keys.
func RoomWakeUp(room string) string { return "lethe:lock:{" + room + "}:wake" }

// RetentionRows names the HASH of the token bucket that limits the rows which purges
// by retention delete. The field tokens is the number of rows left, below 0 if too
// many were taken. The field at is the time of that number, in Unix milliseconds of
// the Redis server's clock.
func RetentionRows() string { return "lethe:retention:rows" }

// KindRows names the HASH of the token bucket that limits the rows which the jobs of a kind
// delete. It has the fields of [RetentionRows].
func KindRows(kind string) string { return "lethe:fleet:{" + kind + "}:rows" }

// JobStatus names the HASH of a job's status.
func JobStatus(id string) string { return "lethe:job:{" + id + "}" }

// HomeserverChannel names the channel on which the processes of a Synapse tell each
// other what they have done. It is Synapse's own, in the Redis server of Synapse.
func HomeserverChannel(serverName string) string { return serverName }
