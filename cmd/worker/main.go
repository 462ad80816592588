// Command worker runs jobs. Any number of workers can run.
// docs/configuration.md describes its settings.
package main

import (
	"os"

	"lethe/internal/launch"
)

func main() { os.Exit(launch.Main("worker")) }
