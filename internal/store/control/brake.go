package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/audit"
	"lethe/internal/store/postgres"
)

// A BrakeLimit takes the place of a signal's default limits at which jobs become slower
// (Soft) and wait (Hard). A nil limit does not limit. Every worker learns of it within 3 s.
type BrakeLimit struct {
	Signal     string
	Soft, Hard *float64

	// Who has set it, and when.
	Who string
	Set time.Time
}

// BrakeLimits returns the limits that are set, by signal. A signal that is not among them
// has its default limits.
func (c *Control) BrakeLimits(ctx context.Context) (map[string]BrakeLimit, error) {
	limits, err := postgres.ReadAll(ctx, c.db, pgx.RowToStructByPos[BrakeLimit], `
		SELECT signal, soft, hard, who, set_at FROM lethe.brake ORDER BY signal`)
	if err != nil {
		return nil, fmt.Errorf("list the limits of the brake: %w", err)
	}
	bySignal := make(map[string]BrakeLimit, len(limits))
	for _, limit := range limits {
		bySignal[limit.Signal] = limit
	}
	return bySignal, nil
}

// SetBrakeLimit sets the limits of a signal, and returns them. The caller has checked them.
func (c *Control) SetBrakeLimit(ctx context.Context, limit BrakeLimit) (BrakeLimit, error) {
	err := c.changeBrake(ctx, limit.Signal, func(tx pgx.Tx, before map[string]any) (audit.Entry, error) {
		err := tx.QueryRow(ctx, `
			INSERT INTO lethe.brake (signal, soft, hard, who) VALUES ($1, $2, $3, $4)
			ON CONFLICT (signal) DO UPDATE
			SET soft = excluded.soft, hard = excluded.hard, who = excluded.who, set_at = excluded.set_at
			RETURNING set_at`, limit.Signal, limit.Soft, limit.Hard, postgres.Sanitize(limit.Who)).Scan(&limit.Set)
		return audit.Entry{Who: limit.Who, Action: audit.SetBrake, Detail: audit.Detail(map[string]any{
			"soft": limit.Soft, "hard": limit.Hard, "before": before,
		})}, err
	})
	if err != nil {
		return BrakeLimit{}, fmt.Errorf("set the limits of the brake: %w", err)
	}
	return limit, nil
}

// ResetBrakeLimit gives a signal its default limits again, for the user called who. A second
// call does nothing.
func (c *Control) ResetBrakeLimit(ctx context.Context, signal, who string) error {
	err := c.changeBrake(ctx, signal, func(tx pgx.Tx, before map[string]any) (audit.Entry, error) {
		_, err := tx.Exec(ctx, `DELETE FROM lethe.brake WHERE signal = $1`, signal)
		return audit.Entry{Who: who, Action: audit.ResetBrake, Detail: audit.Detail(map[string]any{"before": before})}, err
	})
	if err != nil {
		return fmt.Errorf("reset the limits of the brake: %w", err)
	}
	return nil
}

// changeBrake changes the limits of a signal. The limits before are nil if they were the
// default ones.
func (c *Control) changeBrake(ctx context.Context, signal string, change func(tx pgx.Tx, before map[string]any) (audit.Entry, error)) error {
	return c.db.InTransaction(ctx, func(tx pgx.Tx) error {
		var soft, hard *float64
		var before map[string]any
		err := tx.QueryRow(ctx, `SELECT soft, hard FROM lethe.brake WHERE signal = $1 FOR UPDATE`, signal).Scan(&soft, &hard)
		switch {
		case err == nil:
			before = map[string]any{"soft": soft, "hard": hard}
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		entry, err := change(tx, before)
		if err != nil {
			return err
		}
		entry.Subject = signal
		return audit.Note(ctx, tx, entry)
	})
}
