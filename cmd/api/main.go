// Command api serves the admin API and accepts jobs.
// Its settings are in docs/config.example.yaml.
package main

import (
	"os"

	"lethe/internal/config"
	"lethe/internal/process"
)

func main() { os.Exit(process.Main(config.ForAPI)) }
