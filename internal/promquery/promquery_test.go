package promquery_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/promquery"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
		want   float64
		fails  string
	}{
		{200, `{"status":"success","data":{"resultType":"scalar","result":[1700000000,"0.5"]}}`, 0.5, ""},
		{200, `{"data":{"resultType":"vector","result":[{"value":[1,"2"]},{"value":[1,"-3"]},{"value":[1,"7"]}]}}`, 7, ""},
		{200, `{"data":{"resultType":"vector","result":[{"value":[1,"-3"]}]}}`, -3, ""},
		{200, `{"data":{"resultType":"vector","result":[]}}`, 0, "no number"},
		{200, `{"data":{"resultType":"vector","result":[{"value":[1,"NaN"]}]}}`, 0, "no number"},
		{200, `{"data":{"resultType":"vector","result":[{"value":[1,"+Inf"]}]}}`, 0, "no number"},
		{200, `{"data":{"resultType":"vector","result":[{"value":[1]}, {"value":[1, 5]}]}}`, 0, "no number"},
		{200, `{"data":{"resultType":"matrix","result":[]}}`, 0, "no number"},
		{200, `{"data":{"resultType":"vector","result":"7"}}`, 0, "read the answer"},
		{200, `{}`, 0, "no number"},
		{200, `<html>`, 0, "ask Prometheus"},
		{200, `{"status":"` + strings.Repeat("x", 2<<20), 0, "ask Prometheus"},
		{500, `{"data":{"resultType":"scalar","result":[1,"1"]}}`, 0, "status 500"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/prom/api/v1/query" || r.URL.Query().Get("query") != "up > 1" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		query, err := promquery.New(server.URL+"/prom/", "up > 1")
		require.NoError(t, err)
		got, err := query.Value(t.Context())
		query.Close()
		server.Close()
		if c.fails != "" {
			require.ErrorContains(t, err, c.fails, "%.80s", c.body)
			continue
		}
		require.NoError(t, err, c.body)
		require.InDelta(t, c.want, got, 1e-9)
	}
}

// A Prometheus that does not answer takes 2 s at most, and no error has its password.
func TestPrometheusThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer server.Close()
	defer close(hang)
	query, err := promquery.New(strings.Replace(server.URL, "http://", "http://user:hunter2@", 1), "up")
	require.NoError(t, err)
	defer query.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	started := time.Now()
	_, err = query.Value(ctx)
	require.Error(t, err)
	require.NotContains(t, fmt.Sprint(err), "hunter2")
	require.Less(t, time.Since(started), 10*time.Second)
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for url, valid := range map[string]bool{
		"http://127.0.0.1:9090": true, "https://:hunter2@p/x": true, "": false, "p:9090": false, "ftp://p": false, "http://": false,
		"http://p?q=hunter2": false, "http://p:port/hunter2": false,
	} {
		err := promquery.ValidURL(url)
		require.Equal(t, valid, err == nil, url)
		require.NotContains(t, fmt.Sprint(err), "hunter2")
		_, err = promquery.New(url, "up")
		require.Equal(t, valid, err == nil, url)
	}
}
