package process

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/wal"
)

// A worker's sessions compress the WAL, and those of an api, which deletes nothing, do not.
func TestWorkersCompressWAL(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	own := func(p *process) (value, server string) {
		require.NoError(t, p.db.ReadRow(t.Context(), []any{&value, &server}, `
			SELECT setting, reset_val FROM pg_settings WHERE name = 'wal_compression'`))
		return value, server
	}
	worker, _ := requireOpen(t, settings, config.ForWorker)
	value, server := own(worker)
	require.NotEqual(t, server, value)
	require.NotEqual(t, "off", value)
	api, _ := requireOpen(t, settings, config.ForAPI)
	value, server = own(api)
	require.Equal(t, server, value)
	settings.Worker.WALCompression = string(wal.Off)
	worker, _ = requireOpen(t, settings, config.ForWorker)
	value, server = own(worker)
	require.Equal(t, server, value)
}

// A worker does not start with a compression that it cannot set, and says what to do.
func TestCompressionThatWasNamedMustBeUsable(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	requireExec(t, settings.Database.URL, `INSERT INTO users (name, creation_ts) VALUES ('@a:lethe.test', 0)`)
	settings.Redis.URL = config.Secret(devstacktest.Redis(t).URL())
	settings.SynapseBeside = "false"
	settings.Database.URL = config.Secret(devstacktest.AsPlainRole(t, string(settings.Database.URL)))
	settings.Worker.WALCompression = string(wal.PGLZ)
	err := Run(t.Context(), settings, slog.New(slog.DiscardHandler), nil, config.ForWorker)
	require.ErrorIs(t, err, wal.ErrUnusable)
	require.ErrorContains(t, err, "worker.wal_compression")
	settings.Worker.WALCompression = string(wal.Auto)
	require.NoError(t, Check(t.Context(), settings, slog.New(slog.DiscardHandler), nil, config.ForWorker))
}
