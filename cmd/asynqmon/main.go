// Command asynqmon shows the queues to server admins, in a browser.
// Its settings are in docs/config.example.yaml.
package main

import (
	"os"

	"lethe/internal/config"
	"lethe/internal/monitor"
	"lethe/internal/process"
)

func main() { os.Exit(process.MainWithMonitor(monitor.New, config.ForAsynqmon)) }
