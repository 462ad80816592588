package validate

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lethe/internal/config"
)

// requireMemory checks what a container or unit may take, and when Go begins to collect
// garbage more often: below it, and above what an api aims at.
func requireMemory(t *testing.T, limit int64, soft, what string) {
	t.Helper()
	require.Equal(t, int64(512<<20), limit, what)
	n, err := resource.ParseQuantity(strings.TrimSuffix(soft, "B")) // Go writes MiB
	require.NoError(t, err, what)
	require.Less(t, n.Value(), limit*9/10, what)
	require.Greater(t, n.Value(), int64(config.Default().Messages.MaxTotalBytes)*3+int64(config.Default().API.CacheBytes), what)
}

// TestMemoryIsLimited holds the limits of systemd, compose and Kubernetes against each
// other.
func TestMemoryIsLimited(t *testing.T) {
	unit, err := os.ReadFile(filepath.Join(root, "deploy/systemd/lethe@.service"))
	require.NoError(t, err)
	written := func(pattern string) string {
		found := regexp.MustCompile(pattern).FindSubmatch(unit)
		require.NotNil(t, found, pattern)
		return string(found[1])
	}
	limit, err := resource.ParseQuantity(written(`(?m)^MemoryMax=(\d+M)$`) + "i") // M of systemd is Mi
	require.NoError(t, err)
	requireMemory(t, limit.Value(), written(`(?m)^Environment=GOMEMLIMIT=(\d+MiB)$`), "systemd")

	for _, c := range compositions {
		for name, service := range composedOf(t, c.files, c.profiles).Services {
			if service.Build == nil {
				continue
			}
			require.NotNil(t, service.Environment["GOMEMLIMIT"], name)
			requireMemory(t, int64(service.MemLimit), *service.Environment["GOMEMLIMIT"], name)
		}
	}
	each(t, func(t *testing.T, c *cluster) {
		for _, p := range c.pods {
			if p.component != "api" && p.component != "worker" {
				continue
			}
			environment, _ := given(t, c, p)
			limit := p.container(t).Resources.Limits[corev1.ResourceMemory]
			requireMemory(t, limit.Value(), environment["GOMEMLIMIT"], p.of)
		}
	})
}
