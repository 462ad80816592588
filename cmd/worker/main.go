// Command worker runs the jobs. Any number of them may run.
// Its settings are in docs/config.example.yaml.
package main

import (
	"os"

	"lethe/internal/config"
	"lethe/internal/process"
)

func main() { os.Exit(process.Main(config.ForWorker)) }
