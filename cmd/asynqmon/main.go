// Command asynqmon shows the queues to server admins, in a browser.
// docs/configuration.md describes its settings.
package main

import (
	"os"

	"lethe/internal/launch"
	"lethe/internal/monitor"
)

func main() { os.Exit(launch.MainOfAsynqmon(monitor.New)) }
