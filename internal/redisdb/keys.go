package redisdb

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync/atomic"
)

// asynq's keys begin with "asynq:", and Lethe's with "lethe:". The text in braces is
// the hash tag, which decides the Cluster slot. A room's is made from a hash of its id:
// an id may be empty, in which case Redis would see no tag, or contain braces.

// Names makes the names of the keys, channels and queues of one deployment, so that
// several can use one Redis. They contain the deployment's id, which is in its database.
// A nil Names makes names without an id, for a Redis that nothing else uses. Names is
// safe for concurrent use.
type Names struct {
	prefix atomic.Pointer[string]
}

// NamesOf returns the names of the deployment with that id.
func NamesOf(deployment string) *Names {
	n := new(Names)
	n.Bind(deployment)
	return n
}

// Bind sets the deployment's id, for a process that has to wait for its database. Before
// that, every other method except Bound panics. The last call wins.
func (n *Names) Bind(deployment string) {
	prefix := "lethe:" + deployment + ":"
	n.prefix.Store(&prefix)
}

// Bound reports whether the names can be used.
func (n *Names) Bound() bool { return n == nil || n.prefix.Load() != nil }

func (n *Names) name(rest ...string) string {
	if n == nil {
		return "lethe:" + strings.Join(rest, "")
	}
	prefix := n.prefix.Load()
	if prefix == nil {
		panic("redisdb: Names are used before Bind")
	}
	return *prefix + strings.Join(rest, "")
}

func (n *Names) room(room, suffix string) string {
	hash := sha256.Sum256([]byte(room))
	return n.name("lock:{", hex.EncodeToString(hash[:8]), "}:", suffix)
}

// RoomWriteLock names the STRING of the redsync mutex. Its value belongs to the
// owner. The key exists while a writer has the room or waits for its readers to
// leave.
func (n *Names) RoomWriteLock(room string) string { return n.room(room, "w") }

// RoomReadLeases names the ZSET of shared leases. A member is a lease's id, and its
// score the time when the lease expires, in Unix milliseconds of the Redis server's
// clock.
func (n *Names) RoomReadLeases(room string) string { return n.room(room, "r") }

// RoomRefusedReaders names the ZSET of refused readers, which enter before the next
// writer. A member is a reader's mark, and its score the time when the mark expires,
// in Unix milliseconds of the Redis server's clock.
func (n *Names) RoomRefusedReaders(room string) string { return n.room(room, "q") }

// RoomWakeUp names the channel of messages to waiters that the room may be free. In
// a Cluster its subscribers use the node that has the room's keys.
func (n *Names) RoomWakeUp(room string) string { return n.room(room, "wake") }

// RetentionRows names the HASH of the token bucket that limits the rows which purges
// by retention delete. The field tokens is the number of rows left, below 0 if too
// many were taken. The field at is the time of that number, in Unix milliseconds of
// the Redis server's clock.
func (n *Names) RetentionRows() string { return n.name("retention:rows") }

// KindRows names the HASH of the token bucket that limits the rows which the jobs of a kind
// delete. It has the fields of [Names.RetentionRows].
func (n *Names) KindRows(kind string) string { return n.name("fleet:{", kind, "}:rows") }

// Brakes names the HASH of what the workers' brakes do. A field is the name of a worker, and
// its value a JSON object with the time, which must be young: a worker that has died leaves
// its field. The key expires when no worker has written for some time.
func (n *Names) Brakes() string { return n.name("brakes") }

// Schedulers names the HASH of the schedulers that are alive. A field is the name of a
// scheduler, and its value a JSON object with the time, which must be young: a scheduler
// that was killed leaves its field. The key expires when no scheduler has written for some
// time.
func (n *Names) Schedulers() string { return n.name("schedulers") }

// ConsoleSession names the STRING of a console's session, which is sealed with a key that
// only the browser has. The id is a hash of what the browser sends. The key expires with the
// session.
func (n *Names) ConsoleSession(id string) string { return n.name("console:{", id, "}") }

// JobStatus names the HASH of a job's status.
func (n *Names) JobStatus(id string) string { return n.name("job:{", id, "}") }

// Queue names a queue of asynq's, which puts the name into the hash tag of its keys.
// With a nil Names it is the queue itself.
func (n *Names) Queue(queue string) string {
	if n == nil {
		return queue
	}
	return n.name(queue)
}

// HomeserverChannel names the channel on which the processes of a Synapse tell each
// other what they have done. It is Synapse's own, in the Redis server of Synapse.
func HomeserverChannel(serverName string) string { return serverName }
