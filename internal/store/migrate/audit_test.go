package migrate_test

import (
	"testing"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"lethe/internal/store/migrate"
)

// The audit begins with what older versions have recorded, and with nothing else.
func TestAuditBeginsWithWhatWasRecorded(t *testing.T) {
	t.Parallel()
	l := setupEmpty(t)
	require.NoError(t, migrate.UpEmbedded(l.Ctx, l.URL))
	require.NoError(t, migrate.WithMigrator(l.Ctx, l.URL, "lethe", func(provider *goose.Provider) error {
		if _, err := provider.DownTo(l.Ctx, 16); err != nil {
			return err
		}
		l.Exec(`
			INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, reason, created_at) VALUES
				('AAAAAAAAAAAAAAAA', 'purge_history', '!a:x', '{}', '@admin:x', 'queued', 'old', now()),
				('BBBBBBBBBBBBBBBB', 'purge_history', '!b:x', '{}', 'retention', 'queued', NULL, now());
			UPDATE lethe.job_events SET at = to_timestamp(id);
			INSERT INTO lethe.job_events (job_id, at, event, who, reason) VALUES ('BBBBBBBBBBBBBBBB', to_timestamp(3000), 'cancel', 'night', 'late');
			INSERT INTO lethe.job_events (job_id, at, event) VALUES ('AAAAAAAAAAAAAAAA', to_timestamp(3001), 'running');
			INSERT INTO lethe.holds (room_id, reason, placed_by, placed_at, released_by, released_at) VALUES ('!a:x', 'case', '@a:x', to_timestamp(1000), '@b:x', to_timestamp(4000));
			INSERT INTO lethe.fleet (kind, jobs, who, set_at) VALUES ('delete_room', 2, '@a:x', to_timestamp(5000));
			INSERT INTO lethe.pauses (scope, value, who, reason, set_at) VALUES ('all', 'all', '@a:x', 'backup', to_timestamp(6000)), ('job', 'AAAAAAAAAAAAAAAA', '@a:x', 'r', now());
			INSERT INTO lethe.brake (signal, soft, who, set_at) VALUES ('xmin_age', 7, '@a:x', to_timestamp(7000))`)
		_, err := provider.Up(l.Ctx)
		return err
	}))
	rows, err := l.Conn.Query(l.Ctx, `
		SELECT concat_ws(' ', who, way, action, subject, room_id, job_id, reason, nullif(detail, '{}')) FROM lethe.audit ORDER BY id`)
	require.NoError(t, err)
	var lines []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		lines = append(lines, line)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []string{
		"@admin:x request purge_history !a:x AAAAAAAAAAAAAAAA old",
		"@a:x hold !a:x case",
		"night cancel purge_history !b:x BBBBBBBBBBBBBBBB late",
		"@b:x lift_hold !a:x",
		`@a:x set_limits delete_room {"jobs": 2, "rows_per_second": null}`,
		"@a:x set_pause all jobs backup",
		`@a:x set_brake xmin_age {"hard": null, "soft": 7}`,
	}, lines)
}
