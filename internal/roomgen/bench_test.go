package roomgen_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

// BenchmarkGenerate generates rooms of 20,000 events, and rolls them back.
func BenchmarkGenerate(b *testing.B) {
	conn, err := pgx.Connect(b.Context(), devstacktest.Database(b, "embedded", migrate.UpEmbedded))
	require.NoError(b, err)
	defer conn.Close(b.Context())
	for b.Loop() {
		tx, err := conn.Begin(b.Context())
		require.NoError(b, err)
		_, err = roomgen.Generate(b.Context(), tx, roomgen.Room{Server: "lab.test", Events: 20_000})
		require.NoError(b, err)
		require.NoError(b, tx.Rollback(b.Context()))
	}
}
