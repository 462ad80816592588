package shutdown_test

import (
	"context"

	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// An stepOutcome is what a step did, which is also the checkpoint that it leaves.
type stepOutcome struct {
	NewRoom         string
	Removed, Failed []string
	Recorded        bool
	Aliases         []string
	Planned         []string
}

// A driver takes the steps of a homeserver as a job does: each in a batch that it
// commits, and again after what is only recorded.
type driver struct {
	journal *journal.Journal
	home    shutdown.Homeserver
}

func drive(db *postgres.DB, home shutdown.Homeserver) driver {
	return driver{journal: journal.New(db), home: home}
}

func (d driver) take(ctx context.Context, work storetest.Work, step func(*journal.Batch) (stepOutcome, error)) (o stepOutcome, err error) {
	err = storetest.InBatch(ctx, d.journal, work, func(b *journal.Batch) (any, error) {
		o, err = step(b)
		return o, err
	})
	if err != nil {
		return stepOutcome{}, err
	}
	return o, nil
}

func (d driver) Block(ctx context.Context, work storetest.Work, requester string) error {
	_, err := d.take(ctx, work, func(b *journal.Batch) (stepOutcome, error) { return stepOutcome{}, d.home.Block(ctx, b, requester) })
	return err
}

func (d driver) CreateRoom(ctx context.Context, work storetest.Work, room shutdown.NewRoom) (string, error) {
	o, err := d.take(ctx, work, func(b *journal.Batch) (stepOutcome, error) {
		id, err := d.home.CreateRoom(ctx, b, room)
		return stepOutcome{NewRoom: id}, err
	})
	return o.NewRoom, err
}

func (d driver) RemoveUsers(ctx context.Context, work storetest.Work, removal shutdown.Removal) (stepOutcome, error) {
	o, err := d.take(ctx, work, func(b *journal.Batch) (stepOutcome, error) {
		removed, err := d.home.RemoveUsers(ctx, b, removal)
		return stepOutcome{Removed: removed.Removed, Failed: removed.Failed, Recorded: removed.Recorded}, err
	})
	if err == nil && o.Recorded {
		removal.Recorded = true
		return d.RemoveUsers(ctx, work, removal)
	}
	return o, err
}

func (d driver) SendMessage(ctx context.Context, work storetest.Work, message shutdown.Message) error {
	_, err := d.take(ctx, work, func(b *journal.Batch) (stepOutcome, error) { return stepOutcome{}, d.home.SendMessage(ctx, b, message) })
	return err
}

func (d driver) MoveAliases(ctx context.Context, work storetest.Work, move shutdown.AliasMove) (stepOutcome, error) {
	o, err := d.take(ctx, work, func(b *journal.Batch) (stepOutcome, error) {
		moved, err := d.home.MoveAliases(ctx, b, move)
		return stepOutcome{Aliases: moved.Aliases, Planned: moved.Planned}, err
	})
	if err == nil && o.Planned != nil {
		move.Known = o.Planned
		return d.MoveAliases(ctx, work, move)
	}
	return o, err
}

// errOf is the error of a step whose outcome does not matter.
func errOf[T any](_ T, err error) error { return err }
