package homeserver

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDelegates(t *testing.T) {
	t.Parallel()
	const (
		stable   = "/_matrix/client/v1/auth_metadata"
		unstable = "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"
		issuer   = "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer"
	)
	for name, test := range map[string]struct {
		answers map[string]string // by path, as in a census
		want    bool
		unknown string // a piece of ErrUnavailable
		asked   []string
	}{
		"no":               {nil, false, "", []string{stable, unstable, issuer}},
		"not found":        {map[string]string{stable: `404{"errcode":"M_NOT_FOUND"}`}, false, "", []string{stable, unstable, issuer}},
		"unrecognized":     {map[string]string{stable: `400{"errcode":"M_UNRECOGNIZED"}`}, false, "", []string{stable, unstable, issuer}},
		"stable":           {map[string]string{stable: `{"issuer":"https://mas.example/"}`}, true, "", []string{stable}},
		"unstable":         {map[string]string{unstable: `{"issuer":"https://mas.example/"}`}, true, "", []string{stable, unstable}},
		"issuer":           {map[string]string{issuer: `{"issuer":"https://mas.example/"}`}, true, "", []string{stable, unstable, issuer}},
		"no issuer":        {map[string]string{stable: `{}`}, false, "no issuer", []string{stable}},
		"issuer a number":  {map[string]string{stable: `{"issuer":1}`}, false, "not what was asked for", []string{stable}},
		"no JSON":          {map[string]string{stable: `200<html>`}, false, "no JSON object", []string{stable}},
		"a proxy's 404":    {map[string]string{stable: `404<html>`}, false, "status 404", []string{stable}},
		"refused":          {map[string]string{stable: `403{"errcode":"M_FORBIDDEN"}`}, false, "403 M_FORBIDDEN", []string{stable}},
		"cannot reach MAS": {map[string]string{stable: `500{"errcode":"M_UNKNOWN","error":"Internal server error"}`}, false, "500 M_UNKNOWN", []string{stable}},
		"odd":              {map[string]string{stable: `500{"errcode":"M_UNRECOGNIZED"}`}, false, "500 M_UNRECOGNIZED", []string{stable}},
		"limited":          {map[string]string{stable: `429{"errcode":"M_LIMIT_EXCEEDED"}`}, false, "429", []string{stable}},
		"starting":         {map[string]string{stable: starting}, false, "503", []string{stable}},
		"then starting":    {map[string]string{unstable: starting}, false, "503", []string{stable, unstable}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			homeserver := &census{admin: test.answers}
			got, err := clientOf(t, Options{}, homeserver.ServeHTTP).Delegates(t.Context())
			require.Equal(t, test.want, got)
			require.Equal(t, test.asked, homeserver.asked)
			if test.unknown == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrUnavailable)
			require.ErrorContains(t, err, test.unknown)
		})
	}
}

func TestDelegatesEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		client := clientOf(t, Options{}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		_, err := client.Delegates(t.Context())
		require.Error(t, err)
		require.Equal(t, dialTime, time.Since(begun))
	})
}
