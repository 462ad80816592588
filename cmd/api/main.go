// Command api serves the admin API and accepts jobs.
// docs/configuration.md describes its settings.
package main

import (
	"os"

	"lethe/internal/launch"
)

func main() { os.Exit(launch.Main("api")) }
