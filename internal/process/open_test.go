package process

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/config"
)

// The pages of rooms have connections of their own, and all together are as many as the
// setting says.
func TestPagesHaveTheirOwnConnections(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		all          int
		purposes     []config.Purpose
		pages, other int
	}{
		{16, []config.Purpose{config.ForAPI}, 12, 4},
		{2, []config.Purpose{config.ForAPI}, 1, 1},
		{16, []config.Purpose{config.ForAPI, config.ForWorker, config.ForScheduler}, 8, 8},
		{3, []config.Purpose{config.ForAPI, config.ForWorker}, 1, 2},
		{16, []config.Purpose{config.ForWorker}, 0, 16},
	} {
		p := &process{purposes: test.purposes}
		p.settings.Database = config.Database{URL: "postgres://lethe@127.0.0.1:1/matrix", MaxConnections: test.all}
		require.NoError(t, p.openDatabase(t.Context()))
		require.Equal(t, test.other, p.db.Connections().Max, test)
		if test.pages == 0 {
			require.Nil(t, p.pages)
		} else {
			require.Equal(t, test.pages, p.pages.Connections().Max, test)
		}
		p.close(t.Context())
	}
}

// The brake looks at the server while jobs have all other connections.
func TestTheBrakeHasAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ all, other int }{{16, 15}, {3, 2}, {2, 2}} {
		p := &process{purposes: []config.Purpose{config.ForWorker}}
		p.settings.Database = config.Database{URL: "postgres://lethe@127.0.0.1:1/matrix", MaxConnections: test.all}
		p.settings.Brake.Enabled = true
		require.NoError(t, p.openDatabase(t.Context()))
		require.Equal(t, test.other, p.db.Connections().Max)
		if test.other < test.all {
			require.Equal(t, 1, p.looks.Connections().Max)
		} else {
			require.Same(t, p.db, p.looks)
		}
		p.close(t.Context())
	}
}
