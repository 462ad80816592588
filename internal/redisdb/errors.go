package redisdb

import (
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

// states are parts of replies that tell of the server's state and not of the command: it
// would be accepted at another time, or by another server. A script's error has them in
// its middle.
var states = []string{
	"ASK ", "BUSY ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED ", "NOAUTH", "NOREPLICAS",
	"OOM ", "READONLY", "TRYAGAIN", "UNBLOCKED", "WRONGPASS", "max number of clients",
}

// IsRefusal reports whether a server that works has refused a command, for example because
// the key has another type (WRONGTYPE) or the user lacks a permission (NOPERM). The same
// command fails again until an operator has changed something, while others may succeed.
// An error without a reply of the server is no refusal, and neither is a nil.
func IsRefusal(err error) bool {
	var reply redis.Error
	if !errors.As(err, &reply) || errors.Is(err, redis.Nil) {
		return false
	}
	for _, state := range states {
		if strings.Contains(reply.Error(), state) {
			return false
		}
	}
	return true
}
