package process

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// TestOperatorCountsStatusFailures cancels a job while Redis is down.
func TestOperatorCountsStatusFailures(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	withAdmin(t, settings)
	db, err := postgres.Open(t.Context(), string(settings.Database.URL), postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	defer db.Close()
	job := journal.Job{ID: jobs.NewID(), Kind: jobs.PurgeHistory, Room: "!a:lethe.test", Parameters: []byte(`{}`), Requester: "@admin:lethe.test"}
	require.NoError(t, journal.New(db).InsertJob(t.Context(), job, false))

	api, records, _ := start(t, settings, config.ForAPI)
	metrics := "http://" + requireLine(t, records, "listening for metrics")["metrics_address"]
	const failures = `lethe_status_failures_total{operation="post"} `
	status, body, err := get(t.Context(), newClient(t, nil), metrics+"/metrics")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, failures+"0\n")

	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api+"/_lethe/v1/jobs/"+job.ID+"/cancel", strings.NewReader(`{}`))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer in-the-database")
	response, err := newClient(t, nil).Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	_, body, err = get(t.Context(), newClient(t, nil), metrics+"/metrics")
	require.NoError(t, err)
	require.Contains(t, body, failures+"1\n")
}
