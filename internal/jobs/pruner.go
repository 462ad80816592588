package jobs

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"lethe/internal/store/audit"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

const (
	// pruneInterval is the interval between two rounds of a replica.
	pruneInterval = 10 * time.Minute

	// pruneBatch bounds the rows of one transaction, and pruneBatches the transactions
	// of one round. The next round prunes the rest.
	pruneBatch   = 500
	pruneBatches = 200

	// prunePause is the pause between two batches, in which other work goes on.
	prunePause = 100 * time.Millisecond

	// pruneTime bounds one batch.
	pruneTime = 30 * time.Second
)

// A Pruner deletes the rows of jobs that ended long ago, and entries of the audit of the
// same age. Any number of replicas may
// run at once.
type Pruner struct {
	journal *journal.Journal
	audit   *audit.Log
	keep    time.Duration
	log     *slog.Logger
	pruned  func(rows int)
}

// NewPruner returns a Pruner that keeps the rows of jobs for keep after their end, and
// calls pruned after each batch. It deletes nothing before [Pruner.Run].
func NewPruner(db *postgres.DB, keep time.Duration, log *slog.Logger, pruned func(rows int)) *Pruner {
	return &Pruner{journal: journal.New(db), audit: audit.NewLog(db), keep: keep, log: log, pruned: pruned}
}

// Run prunes at once and then every 10 minutes until the context ends. It logs a
// failed round, and the next one tries again.
func (p *Pruner) Run(ctx context.Context) {
	round := func(ctx context.Context) {
		if err := p.Prune(ctx); err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "journal not pruned", "error", err)
		}
	}
	round(ctx)
	wait.Every(ctx, pruneInterval, round)
}

// Prune prunes one round: up to 100,000 jobs, and as many entries of the audit, in batches
// of 500.
func (p *Pruner) Prune(ctx context.Context) error {
	return errors.Join(p.pruneJobs(ctx), p.pruneAudit(ctx))
}

func (p *Pruner) pruneAudit(ctx context.Context) error {
	return inBatches(ctx, func(ctx context.Context) (int, error) { return p.audit.Prune(ctx, p.keep, pruneBatch) })
}

func (p *Pruner) pruneJobs(ctx context.Context) error {
	total := 0
	defer func() {
		if total > 0 {
			p.log.InfoContext(ctx, "journal pruned", "jobs", total, "keep", p.keep.String())
		}
	}()
	return inBatches(ctx, func(ctx context.Context) (int, error) {
		pruned, err := p.journal.Prune(ctx, p.keep, pruneBatch)
		p.pruned(pruned)
		total += pruned
		return pruned, err
	})
}

// inBatches calls prune until it has less than a batch to delete.
func inBatches(ctx context.Context, prune func(context.Context) (int, error)) error {
	batch := func() (int, error) {
		ctx, cancel := context.WithTimeout(ctx, pruneTime)
		defer cancel()
		return prune(ctx)
	}
	for range pruneBatches {
		pruned, err := batch()
		if err != nil || pruned < pruneBatch {
			return err
		}
		if err := wait.For(ctx, prunePause); err != nil {
			return err
		}
	}
	return nil
}
