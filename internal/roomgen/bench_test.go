package roomgen_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

// BenchmarkGenerate generates rooms of 20,000 events, and rolls them back. Most of the time
// is PostgreSQL's, so it also reports the processor time of the generator itself.
func BenchmarkGenerate(b *testing.B) {
	conn, err := pgx.Connect(b.Context(), devstacktest.Database(b, "embedded", migrate.UpEmbedded))
	require.NoError(b, err)
	defer conn.Close(b.Context())
	before := processorTime(b)
	for b.Loop() {
		tx, err := conn.Begin(b.Context())
		require.NoError(b, err)
		_, err = roomgen.Generate(b.Context(), tx, roomgen.Room{Server: "lab.test", Events: 20_000})
		require.NoError(b, err)
		require.NoError(b, tx.Rollback(b.Context()))
	}
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
