// Command asynqmon shows the queues to server admins, in a browser.
// docs/configuration.md describes its settings.
package main

import (
	"os"

	"lethe/internal/config"
	"lethe/internal/monitor"
	"lethe/internal/process"
)

func main() { os.Exit(process.MainWithMonitor(monitor.New, config.ForAsynqmon)) }
