package version

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionOfEveryBuild(t *testing.T) {
	t.Parallel()
	checkout := func(main, modified string) *debug.BuildInfo {
		return &debug.BuildInfo{
			Main:     debug.Module{Version: main},
			Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: modified}},
		}
	}
	for name, test := range map[string]struct {
		version, revision string
		info              *debug.BuildInfo
		want              [2]string
	}{
		"by the Makefile":      {"v1", "def", checkout("v0.0.0-1", "true"), [2]string{"v1", "def"}},
		"by go build":          {"", "", checkout("v0.0.0-1", "false"), [2]string{"v0.0.0-1", "abc"}},
		"with changes":         {"", "", checkout("(devel)", "true"), [2]string{"dev", "abc-dirty"}},
		"without a checkout":   {"", "", &debug.BuildInfo{}, [2]string{"dev", "unknown"}},
		"without a build info": {"", "", nil, [2]string{"dev", "unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := of(test.version, test.revision, test.info)
			require.Equal(t, test.want, [2]string{got.Version, got.Revision})
			require.Contains(t, got.Line("worker"), "worker "+test.want[0]+" (revision "+test.want[1]+", go1.")
		})
	}
}
