package devstacktest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

func TestEmptyDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	one, other := devstacktest.EmptyDatabase(t), devstacktest.EmptyDatabase(t)
	require.NotEqual(t, one, other)
	execute(t, one, "CREATE TABLE t ()")
	execute(t, other, "CREATE TABLE t ()")
}

func TestDatabaseIsDroppedAfterTheTest(t *testing.T) {
	t.Parallel()
	var dropped string
	t.Run("asks", func(t *testing.T) {
		dropped = devstacktest.EmptyDatabase(t)
		conn, err := pgx.Connect(t.Context(), dropped)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	})
	_, err := pgx.Connect(t.Context(), dropped)
	require.ErrorContains(t, err, "does not exist")
}

func TestTemplateIsPreparedOnce(t *testing.T) {
	t.Parallel()
	var prepared atomic.Int32
	label := fmt.Sprintf("%p", &prepared) // a second run of the test prepares another template
	prepare := func(ctx context.Context, url string) error {
		prepared.Add(1)
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE t ()")
		return err
	}
	t.Run("all", func(t *testing.T) {
		for range 4 {
			t.Run("one", func(t *testing.T) {
				t.Parallel()
				execute(t, devstacktest.Database(t, label, prepare), "DROP TABLE t")
			})
		}
	})
	require.EqualValues(t, 1, prepared.Load())
}

func TestRestored(t *testing.T) {
	t.Parallel()
	dump := devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")
	for range 2 {
		execute(t, devstacktest.Restored(t, dump), "DELETE FROM room_aliases; SELECT 1 / count(*) FROM events")
	}
}

func TestSharedSkipsMissingFiles(t *testing.T) {
	t.Parallel()
	var skipped bool
	t.Run("asks", func(t *testing.T) {
		t.Cleanup(func() { skipped = t.Skipped() })
		devstacktest.Shared(t, "no such file")
	})
	require.True(t, skipped)
}

func TestBinariesAreThoseOfCmd(t *testing.T) {
	t.Parallel()
	folder := devstacktest.Binaries(t)
	require.Equal(t, folder, devstacktest.Binaries(t), "built once")
	commands, err := filepath.Glob("../../../cmd/*/main.go")
	require.NoError(t, err)
	require.NotEmpty(t, commands)
	for _, command := range commands {
		binary, err := os.Stat(filepath.Join(folder, filepath.Base(filepath.Dir(command))))
		require.NoError(t, err)
		require.NotZero(t, binary.Mode()&0o111)
	}
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	require.NoError(t, err)
}
