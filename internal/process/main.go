package process

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"lethe/internal/config"
	"lethe/internal/observe"
)

// Main is the main function of a process that does what the purposes say: it
// reads the configuration from the environment, runs until SIGTERM or SIGINT,
// and returns the exit status. A second signal ends the process at once.
func Main(purposes ...config.Purpose) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	settings, err := config.Load(os.Environ(), purposes...)
	if err == nil {
		log := observe.NewLogger(os.Stderr, settings.Log.Level, settings.Log.Format)
		err = Run(ctx, settings, log, purposes...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lethe:", err)
		return 1
	}
	return 0
}
