// Command api serves the admin API and accepts jobs.
// docs/configuration.md describes its settings.
package main

import (
	"os"

	"lethe/internal/config"
	"lethe/internal/process"
)

func main() { os.Exit(process.Main(config.ForAPI)) }
