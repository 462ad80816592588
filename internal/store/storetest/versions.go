package storetest

import (
	"context"
	"embed"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// Versions are the versions of Synapse whose schemas the tests use, the newest first.
var Versions = []string{"1.160", "1.98", "1.91"}

//go:embed versions
var versions embed.FS

// Restored returns the URL of a database with the contents of a fixture of Synapse
// 1.160 and the schema of one of the [Versions].
func Restored(t *testing.T, fixture, version string) string {
	t.Helper()
	url := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", fixture))
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	at := slices.Index(Versions, version)
	require.GreaterOrEqual(t, at, 0, version)
	for _, older := range Versions[1 : at+1] { // each script begins where the last one ends
		script, err := versions.ReadFile("versions/" + older + ".sql")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), string(script)+"; ANALYZE")
		require.NoError(t, err, older)
	}
	return url
}
