package chaos

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A fault is one of a plan.
type fault struct {
	kind   string
	target uint64        // which of the targets that there are
	after  time.Duration // the fault before it began so much earlier
	lasts  time.Duration
}

func (f fault) String() string {
	return fmt.Sprintf("%v later: %s, target %d, for %v", f.after, f.kind, f.target, f.lasts)
}

// A round has a fleet of its own.
type round struct {
	redis  string
	seed   uint64
	faults []fault
}

// A faultKind is a kind of faults, with how long one lasts. Those that are quick leave nothing
// that takes more than some seconds to come right.
type faultKind struct {
	name     string
	min, max time.Duration
	quick    bool
	do       func(*world, fault) error
}

// kinds are all kinds of faults.
var kinds = []faultKind{
	{"SIGKILL of an api", 300 * time.Millisecond, 2 * time.Second, true, kill("api")},
	{"SIGKILL of a worker", 300 * time.Millisecond, 2 * time.Second, true, kill("worker")},
	{"SIGKILL of a scheduler", 300 * time.Millisecond, 2 * time.Second, true, kill("scheduler")},
	{"SIGSTOP of an api", time.Second, 14 * time.Second, false, stop("api")},
	{"SIGSTOP of a worker", time.Second, 16 * time.Second, false, stop("worker")},
	{"SIGSTOP of a scheduler", time.Second, 14 * time.Second, false, stop("scheduler")},
	{"Redis loses its data", 0, 0, false, (*world).flush},
	{"Redis restarts empty", 100 * time.Millisecond, 3 * time.Second, false, (*world).restartRedis},
	{"Redis hangs", time.Second, 5 * time.Second, false, (*world).hangRedis},
	{"Redis is full", time.Second, 4 * time.Second, false, (*world).fillRedis},
	{"Redis connections are cut", 0, 0, true, (*world).cutRedis},
	{"Redis connections are slow", time.Second, 3 * time.Second, true, (*world).slowRedis},
	{"Redis messages are lost", time.Second, 3 * time.Second, false, (*world).loseRedis},
	{"PostgreSQL sessions are terminated", 0, 0, true, (*world).terminate},
	{"a role has too many connections", time.Second, 5 * time.Second, false, (*world).limitRole},
	{"another session locks rows", time.Second, 8 * time.Second, true, (*world).lockRows},
	{"another session locks a table", time.Second, 7 * time.Second, false, (*world).lockTable},
	{"PostgreSQL connections are cut", 0, 2 * time.Second, true, (*world).cutPostgres},
	{"PostgreSQL connections are slow", time.Second, 4 * time.Second, true, (*world).slowPostgres},
	{"PostgreSQL connections stall", time.Second, 6 * time.Second, false, (*world).stallPostgres},
	{"PostgreSQL messages are lost", time.Second, 3 * time.Second, true, (*world).losePostgres},
	{"PostgreSQL connections fall silent", 0, 0, false, (*world).silencePostgres},
	{"PostgreSQL restarts", 0, 0, false, (*world).restartPostgres},
	{"a standby is promoted", 0, 0, false, (*world).promote},
}

// plan makes the plan of a seed. Each kind of fault comes before one comes again. A sample
// has one round and quick faults only.
func plan(seed uint64, faults int, sample bool) (rounds []round) {
	random := rand.New(rand.NewPCG(seed, 1))
	var eligible, deck []int
	for i, kind := range kinds {
		if kind.quick || !sample {
			eligible = append(eligible, i)
		}
	}
	gap := 2500 // ms
	number := min(len(redisKinds), max(1, faults/4))
	if sample {
		number, gap = 1, 500
	}
	for n := range number {
		r := round{redis: redisKinds[(seed+uint64(n))%uint64(len(redisKinds))], seed: random.Uint64()}
		for range faults*(n+1)/number - faults*n/number {
			if len(deck) == 0 {
				for _, i := range random.Perm(len(eligible)) {
					deck = append(deck, eligible[i])
				}
			}
			kind := kinds[deck[0]]
			deck = deck[1:]
			if sample {
				kind.max = min(kind.max, 2*time.Second)
			}
			r.faults = append(r.faults, fault{
				kind: kind.name, target: random.Uint64N(1000),
				after: time.Duration(500+random.IntN(gap)) * time.Millisecond,
				lasts: (kind.min + time.Duration(random.Int64N(int64(kind.max-kind.min)+1))).Round(time.Millisecond),
			})
		}
		rounds = append(rounds, r)
	}
	return rounds
}

func TestSeedGivesThePlan(t *testing.T) {
	t.Parallel()
	first := plan(7, 40, false)
	require.Equal(t, first, plan(7, 40, false))
	require.NotEqual(t, first, plan(8, 40, false))
	require.Len(t, first, 3)
	met := map[string]int{}
	redis := map[string]bool{}
	for _, r := range first {
		redis[r.redis] = true
		for _, f := range r.faults {
			met[f.kind]++
		}
	}
	require.Len(t, redis, 3)
	require.Len(t, met, len(kinds))
	sum := 0
	for _, n := range met {
		require.LessOrEqual(t, n, 2)
		sum += n
	}
	require.Equal(t, 40, sum)
	sample := plan(1, 4, true)
	require.Len(t, sample, 1)
	require.Len(t, sample[0].faults, 4)
}
