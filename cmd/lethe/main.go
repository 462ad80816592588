// Command lethe is the operator's tool. Called as api, worker or scheduler, for example
// through a link, it is that process. docs/cli.md describes its commands.
package main

import (
	"os"

	"lethe/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
