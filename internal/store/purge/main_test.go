package purge_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// A lab is a database of the test's own.
type lab struct{ *storetest.Lab }

func setup(t *testing.T) *lab {
	t.Helper()
	return &lab{storetest.New(t, schema.Worker)}
}

// setupAsOwner is setup with all rights.
func setupAsOwner(t *testing.T) *lab {
	t.Helper()
	return setupOn(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded))
}

const room = storetest.Room

// setupOn is setup on another database.
func setupOn(t *testing.T, url string) *lab {
	t.Helper()
	return &lab{storetest.On(t, url)}
}

// use makes the lab's jobs and purges use the database.
func (l *lab) use(db *postgres.DB, options purge.Options) {
	l.DB, l.Journal, l.Purger = db, journal.New(db), purge.New(db, options)
}

// purgeBy purges up to size events below the depth in one batch that uses the
// catalog.
func (l *lab) purgeBy(catalog purge.Catalog, work storetest.Work, before int64, size int) (purge.HistoryBatch, error) {
	return l.purgeByWith(catalog, work, before, size, func() {})
}

// purgeByWith is purgeBy that calls a function before the commit.
func (l *lab) purgeByWith(catalog purge.Catalog, work storetest.Work, before int64, size int, then func()) (done purge.HistoryBatch, err error) {
	history := l.Purger.HistoryBy(storetest.PurgeRequest(work.Room, before), catalog)
	err = l.InBatch(work, func(b *journal.Batch) (any, error) {
		done, err = history.Purge(l.Ctx, b, math.MinInt64, size)
		if err == nil {
			then()
		}
		return nil, err
	})
	return done, err
}

// collectBatch processes up to limit candidates of the step in one batch.
func (l *lab) collectBatch(step purge.StateGroupStep, work storetest.Work, limit int) (done purge.StateGroupBatch, err error) {
	history, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(work.Room, 0))
	require.NoError(l.T, err)
	err = l.InBatch(work, func(b *journal.Batch) (any, error) {
		done, err = history.CollectStateGroups(l.Ctx, b, step, limit)
		return nil, err
	})
	return done, err
}
