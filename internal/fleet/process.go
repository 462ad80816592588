package fleet

import (
	"fmt"
	"os"
)

// ProcessName returns the name of this process in the rows of the jobs that it runs: its
// host and its process id.
func ProcessName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}
