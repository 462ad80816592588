package version

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// The Makefile and the Dockerfile set these, with the linker's flag -X. A build by
// go build leaves them empty.
var version, revision string

// A Version is what a program was built from.
type Version struct {
	// Version is the name of the release, such as v0.1.0. It is "dev" if the build knew
	// none.
	Version string `json:"version"`

	// Revision is the commit. It ends with "-dirty" if the files differed from the commit.
	// It is "unknown" if the build knew none.
	Revision string `json:"revision"`

	// Go is the version of the compiler.
	Go string `json:"go"`
}

// Of returns the version of this program.
func Of() Version {
	info, _ := debug.ReadBuildInfo()
	return of(version, revision, info)
}

// of returns the version from what the linker was told, or else from what the compiler
// has recorded. info may be nil.
func of(version, revision string, info *debug.BuildInfo) Version {
	found := Version{Version: version, Revision: revision, Go: runtime.Version()}
	if info == nil {
		info = &debug.BuildInfo{}
	}
	if found.Version == "" && info.Main.Version != "(devel)" {
		found.Version = info.Main.Version
	}
	if found.Revision == "" {
		settings := map[string]string{}
		for _, setting := range info.Settings {
			settings[setting.Key] = setting.Value
		}
		found.Revision = settings["vcs.revision"]
		if found.Revision != "" && settings["vcs.modified"] == "true" {
			found.Revision += "-dirty"
		}
	}
	found.Version, found.Revision = cmp.Or(found.Version, "dev"), cmp.Or(found.Revision, "unknown")
	return found
}

// Line returns the version as one line for people, which begins with the name of the
// program.
func (v Version) Line(program string) string {
	return fmt.Sprintf("%s %s (revision %s, %s)", program, v.Version, v.Revision, strings.TrimSpace(v.Go))
}
