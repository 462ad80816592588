package dispatch

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hibiken/asynq"

	"lethe/internal/jobs"
)

// A Worker is a process that takes tasks.
type Worker struct {
	// Name is its host and process id, such as "host:71".
	Name string

	// Started is when it began to take tasks.
	Started time.Time

	// Concurrency is how many tasks it may run at once, and Running how many it runs.
	Concurrency, Running int
}

// Workers returns the processes that take tasks of this deployment, sorted by name. asynq
// forgets one some seconds after it has died.
func (d *Dispatcher) Workers() ([]Worker, error) {
	servers, err := d.inspect.Servers()
	if err != nil {
		return nil, fmt.Errorf("list asynq's servers: %w", err)
	}
	// A worker has a server for each class of queues.
	byName := map[string]Worker{}
	for _, server := range servers {
		if !d.serves(server) {
			continue
		}
		name := fmt.Sprintf("%s:%d", server.Host, server.PID)
		worker, known := byName[name]
		if !known || server.Started.Before(worker.Started) {
			worker.Started = server.Started
		}
		worker.Name = name
		worker.Concurrency += server.Concurrency
		worker.Running += len(server.ActiveWorkers)
		byName[name] = worker
	}
	workers := make([]Worker, 0, len(byName))
	for _, worker := range byName {
		workers = append(workers, worker)
	}
	slices.SortFunc(workers, func(a, b Worker) int { return cmp.Compare(a.Name, b.Name) })
	return workers, nil
}

// serves reports whether a server takes tasks from a queue of this deployment. asynq has
// one list of the servers of all.
func (d *Dispatcher) serves(server *asynq.ServerInfo) bool {
	for _, queue := range jobs.Queues() {
		if _, ok := server.Queues[d.names.Queue(string(queue))]; ok {
			return true
		}
	}
	return false
}
