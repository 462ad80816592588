package brake

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/pressure"
)

// at makes the brake's last look find a share.
func (b *Brake) at(share float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = State{Share: share, Reason: "standby far is 14 s behind", At: time.Now()}
}

// pause pauses a job, and returns for how long.
func (b *Brake) pause(t *testing.T, worked bool) (time.Duration, error) {
	t.Helper()
	started := time.Now()
	err := b.Pause(t.Context(), worked)
	return time.Since(started), err
}

// A job that has not begun begins at a soft limit, and rests after its first batch.
func TestAJobPausesAtASoftLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(nil, Options{BatchTime: 200 * time.Millisecond})
		for share, want := range map[float64]time.Duration{1: 0, 0.25: 150 * time.Millisecond, minShare: 190 * time.Millisecond} {
			b.at(share)
			for worked, want := range map[bool]time.Duration{true: want, false: 0} {
				took, err := b.pause(t, worked)
				require.NoError(t, err)
				require.Equal(t, want, took, "%v, worked %v", share, worked)
			}
			require.InDelta(t, share*float64(time.Second), float64(b.BatchTime(time.Second)), 1)
		}
		b.at(0)
		require.Equal(t, 50*time.Millisecond, b.BatchTime(time.Second), "a batch that is at work ends")
		require.Equal(t, time.Second, (*Brake)(nil).BatchTime(time.Second))
	})
}

// At a hard limit a job waits for a while in its slot, and one that has not begun does not.
// Both say for what they wait.
func TestAJobYieldsAtAHardLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(nil, Options{})
		for worked, want := range map[bool]time.Duration{true: hardWait, false: 0} {
			b.at(0)
			took, err := b.pause(t, worked)
			var yield jobs.YieldError
			require.ErrorAs(t, err, &yield)
			require.Equal(t, jobs.YieldBrake, yield.Reason)
			require.Equal(t, "brake: standby far is 14 s behind", yield.WaitsFor)
			require.Positive(t, yield.After)
			require.Equal(t, want, took, "worked %v", worked)
		}
		b.at(0)
		time.AfterFunc(time.Second, func() { b.at(1) })
		took, err := b.pause(t, true)
		require.NoError(t, err, "the limit has ended")
		require.InDelta(t, time.Second, took, float64(hardLook))
	})
}

// If the later looks have failed, what the last one saw says nothing any more.
func TestALookFromLongAgoBrakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(nil, Options{})
		b.at(0)
		time.Sleep(staleAfter) // of synctest: no real time goes by
		require.Zero(t, b.State().Share)
		time.Sleep(time.Nanosecond) // of synctest
		require.Equal(t, 1.0, b.State().Share)
		require.Empty(t, b.State().Reason)
		took, err := b.pause(t, true)
		require.NoError(t, err)
		require.Zero(t, took)
	})
}

func TestASlowCommitCountsForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(nil, Options{})
		b.Committed(3 * time.Second)
		time.Sleep(2 * time.Second) // of synctest: no real time goes by
		b.Committed(time.Second)
		b.Committed(2 * time.Second)
		b.Committed(time.Second)
		for passed, want := range map[time.Duration]time.Duration{0: 3 * time.Second, 8 * time.Second: 3 * time.Second, 9 * time.Second: 2 * time.Second, 11 * time.Second: 0} {
			require.Equal(t, want, b.slowestCommit(time.Now().Add(passed)), passed)
		}
	})
}

// The named standbys are looked at, and no others.
func TestNamedStandbysAreLookedAt(t *testing.T) {
	t.Parallel()
	written := int64(1000)
	seen := pressure.Look{Written: &written, Standbys: []pressure.Standby{{Name: "near", Replayed: 990}, {Name: "far", Replayed: 100}}}
	for name, test := range map[string]struct {
		wanted []string
		want   figure
	}{
		"all":   {nil, figure{900, "far"}},
		"named": {[]string{"near"}, figure{10, "near"}},
		"both":  {[]string{"near", "far"}, figure{900, "far"}},
	} {
		b := New(nil, Options{Standbys: test.wanted})
		require.Equal(t, test.want, b.figures(t.Context(), time.Now(), seen)[StandbyBytes], name)
	}
}

// looking returns a Brake on the database.
func looking(t *testing.T, url string) (*Brake, *control.Control) {
	t.Helper()
	db, err := postgres.Open(t.Context(), url, postgres.Options{ApplicationName: "lethe worker", MaxConnections: 2})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return New(db, Options{}), control.New(db)
}

// Each look reads the limits anew. The worst signal decides, and says why.
func TestLimitsAreReadAtEachLook(t *testing.T) {
	t.Parallel()
	b, fleet := looking(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
	set := func(signal Signal, l Limits) {
		t.Helper()
		_, err := fleet.SetBrakeLimit(t.Context(), control.BrakeLimit{Signal: string(signal), Soft: l.Soft, Hard: l.Hard, Who: "test"})
		require.NoError(t, err)
	}
	looks := func(share float64, reason string) {
		t.Helper()
		require.NoError(t, b.look(t.Context()))
		state := b.State()
		require.InDelta(t, share, state.Share, 1e-9, state.Reason)
		require.Equal(t, reason, state.Reason)
		require.Len(t, state.Readings, len(kinds))
	}
	const slow, waits = "a commit took 2 s", "sessions that wait for locks of Lethe: 0"
	// What the test's server itself does is of no interest.
	for _, signal := range []Signal{StandbySeconds, SlotBytes, ArchiveSegments, Autovacuums} {
		set(signal, Limits{})
	}
	looks(1, "") // although the free space of the disk is not known
	// A commit counts for 10 s, which a slow machine may need.
	commits := func() { b.Committed(2 * time.Second) }
	commits()
	looks(0.25, slow)
	set(CommitSeconds, limits(0.5, 1))
	looks(0, slow)
	set(CommitSeconds, softly(3))
	looks(1, "")
	zero := 0.0
	set(LockWaits, softly(0))
	set(CommitSeconds, limits(0.5, 1))
	commits()
	looks(0, slow)
	require.NoError(t, fleet.ResetBrakeLimit(t.Context(), string(CommitSeconds), "@admin:x"))
	set(LockWaits, Limits{Hard: &zero})
	commits()
	looks(0, waits)
	require.NoError(t, fleet.ResetBrakeLimit(t.Context(), string(LockWaits), "@admin:x"))
	commits()
	looks(0.25, slow)
}

// A server may keep less WAL for slots than the usual limits. With nothing to do it must not
// have reached them.
func TestASlotOfAServerThatKeepsLittleWAL(t *testing.T) {
	t.Parallel()
	server, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	url := server.URL("postgres")
	require.NoError(t, migrate.UpEmbedded(t.Context(), url))
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	for _, sql := range []string{
		`ALTER SYSTEM SET max_slot_wal_keep_size = '256MB'`, `SELECT pg_reload_conf()`, `SELECT pg_create_physical_replication_slot('far', true)`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	b, _ := looking(t, url)
	require.Eventually(t, func() bool {
		require.NoError(t, b.look(t.Context()))
		slots := b.State().Readings[2]
		require.Equal(t, SlotBytes, slots.Signal)
		return slots.Value != nil // the server has read its settings again
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, 1.0, b.State().Share, b.State().Reason)
}
