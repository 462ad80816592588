// Command worker runs jobs. Any number of workers can run. docs/configuration.md
// describes its settings.
package main

import (
	"os"

	"lethe/internal/config"
	"lethe/internal/process"
)

func main() { os.Exit(process.Main(config.ForWorker)) }
