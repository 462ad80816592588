//go:build !race

package lockmodel

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxStates bounds a model, and with it the time and memory of its test.
const maxStates = 20_000_000

// Every reachable state keeps the promises of package lock and of the fence.
// LETHE_TEST_MODEL adds the larger models, which take minutes.
func TestEveryState(t *testing.T) {
	t.Parallel()
	models := []model{
		{masters: 1, writers: 2, readers: 1},
		{masters: 1, writers: 1, readers: 2},
		{masters: 1, writers: 2, flushes: true},
	}
	if os.Getenv("LETHE_TEST_MODEL") != "" {
		models = append(
			models,
			model{masters: 3, writers: 1, readers: 1},
			model{masters: 3, writers: 2},
			model{masters: 3, writers: 2, flushes: true},
			model{masters: 1, writers: 2, readers: 1, flushes: true},
		)
	}
	for _, m := range models {
		all, err := m.explore(maxStates)
		require.NoError(t, err, "%+v", m)
		t.Logf("%d masters, %d writers, %d readers, flushes %v: %d states, %d steps",
			m.masters, m.writers, m.readers, m.flushes, len(all.states), len(all.steps))
		for p := range m.writers + m.readers {
			way, found := all.stuck(p)
			require.False(t, found, "%s never gets in again after\n%s", m.name(p), way)
		}
	}
}

// A model without a rule breaks a promise. So the rule is needed, and the model notices.
func TestEveryRuleIsNeeded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		without rule
		model   model
		want    string
	}{
		{quorum, model{masters: 3, writers: 1, readers: 1}, "a writer and a reader are inside"},
		{refuseReaders, model{masters: 1, writers: 1, readers: 1}, "a writer and a reader are inside"},
		{drain, model{masters: 1, writers: 1, readers: 1}, "a writer and a reader are inside"},
		{drainByOwner, model{masters: 3, writers: 1, readers: 1}, "a writer and a reader are inside"},
		{fenceIsChecked, model{masters: 1, writers: 2}, "an owner commits without the newest token"},
		{fenceIsShared, model{masters: 1, writers: 2}, "an owner commits without the newest token"},
		{generation, model{masters: 1, writers: 2}, "a run commits that owns the job no more"},
		{generationLocked, model{masters: 1, writers: 2}, "a run commits that owns the job no more"},
		{expiry, model{masters: 1, writers: 1, readers: 1}, "stuck"},
		{marksExpire, model{masters: 1, writers: 1, readers: 1}, "stuck"},
	} {
		c.model.without = c.without
		all, err := c.model.explore(maxStates)
		if c.want == "stuck" {
			require.NoError(t, err)
			_, found := all.stuck(0)
			require.True(t, found, "without rule %d", c.without)
			continue
		}
		require.ErrorContains(t, err, c.want, "without rule %d", c.without)
	}
}
