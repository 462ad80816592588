package httpapi_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
	"lethe/internal/retention"
)

const retentionConfiguration = "GET /_matrix/client/unstable/org.matrix.msc1763/retention/configuration"

func TestRetentionConfiguration(t *testing.T) {
	t.Parallel()
	const day = int64(24 * 3600 * 1000)
	for name, test := range map[string]struct {
		rules *retention.Config
		want  string // unless 404
	}{
		"not served":  {nil, ""},
		"not enabled": {&retention.Config{DefaultPolicy: retention.Policy{MaxLifetime: new(day)}}, ""},
		"all": {&retention.Config{
			Enabled:            true,
			DefaultPolicy:      retention.Policy{MinLifetime: new(day), MaxLifetime: new(3 * day)},
			AllowedLifetimeMin: new(2 * day), AllowedLifetimeMax: new(int64(math.MaxInt64)),
		}, `{"policies":{"*":{"min_lifetime":86400000,"max_lifetime":259200000}},` +
			`"limits":{"max_lifetime":{"min":172800000,"max":9223372036854775807}}}`},
		"nothing": {&retention.Config{Enabled: true}, `{"policies":{},"limits":{}}`},
		"limits":  {&retention.Config{Enabled: true, AllowedLifetimeMax: new(day)}, `{"policies":{},"limits":{"max_lifetime":{"max":86400000}}}`},
		"zeros": {&retention.Config{
			Enabled: true, DefaultPolicy: retention.Policy{MaxLifetime: new(int64(0))}, AllowedLifetimeMin: new(int64(0)),
		}, `{"policies":{"*":{"max_lifetime":0}},"limits":{"max_lifetime":{"min":0}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, httpapi.Options{Retention: test.rules})
			r := b.raw(t, retentionConfiguration+" HTTP/1.1\nHost: x\nAuthorization: Bearer user\n\n")
			if test.want == "" {
				requireJSON(t, r, 404, unrecognized)
				return
			}
			requireJSON(t, r, 200, test.want)
		})
	}
}

func TestRetentionConfigurationIsForUsers(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{Retention: &retention.Config{Enabled: true}})
	for token, want := range map[string]int{
		"admin": 200, "user": 200, "puppeteer": 200, "puppet": 200,
		"guest": 403, "locked": 401, "expired": 401, "gone": 401, "nobody": 401,
	} {
		r := b.raw(t, retentionConfiguration+" HTTP/1.1\nHost: x\nAuthorization: Bearer "+token+"\n\n")
		require.Equal(t, want, r.status, token)
	}
	requireJSON(t, b.raw(t, retentionConfiguration+" HTTP/1.1\nHost: x\n\n"), 401, refusal("M_MISSING_TOKEN", "Missing access token"))
	requireJSON(t, b.raw(t, retentionConfiguration+"/ HTTP/1.1\nHost: x\nAuthorization: Bearer user\n\n"), 404, unrecognized)
}
