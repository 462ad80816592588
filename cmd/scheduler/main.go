// Command scheduler starts the sweeps of retention when they are due.
// docs/configuration.md describes its settings.
package main

import (
	"os"

	"lethe/internal/launch"
)

func main() { os.Exit(launch.Main("scheduler")) }
