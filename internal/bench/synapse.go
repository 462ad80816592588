package bench

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
)

// measureSynapse reads pages from a Synapse, and the same pages from an api of Lethe on
// the same database.
func (r *rig) measureSynapse(ctx context.Context) ([]Row, error) {
	var of room
	var places []matrix.Token
	conn, err := pgx.Connect(ctx, r.options.SynapseDatabase)
	if err != nil {
		return nil, fmt.Errorf("connect to Synapse's database: %w", err)
	}
	err = conn.QueryRow(ctx, `
		SELECT m.room_id, count(*)
		FROM access_tokens t
		JOIN local_current_membership m ON m.user_id = t.user_id AND m.membership = 'join'
		JOIN events e ON e.room_id = m.room_id AND NOT e.outlier
		WHERE t.token = $1
		GROUP BY 1 ORDER BY 2 DESC LIMIT 1`, r.options.SynapseToken).Scan(&of.id, &of.events)
	of.events = min(of.events, int64(r.options.Events)) // only the newest events
	if err == nil {
		places, err = placesIn(ctx, conn, of.id, of.events)
	}
	if err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))); err != nil {
		return nil, fmt.Errorf("find a room whose pages Synapse can be asked for: %w", err)
	}
	m := measurements{}
	read := func(ctx context.Context, whose, base string) error {
		for name, endpoint := range map[string]string{"admin": adminPages(of.id), "member": memberPages(of.id)} {
			pace, err := readAll(ctx, places, int(of.events), httpPager(base+endpoint, r.options.SynapseToken), nil)
			if err != nil {
				return fmt.Errorf("%s, as %s: %w", whose, name, err)
			}
			m.add(pagesPerSecond, whose+", "+name, pace.perSecond)
		}
		return nil
	}
	for run := range r.options.Runs {
		r.say("pages of a Synapse's room of %d events, run %d", of.events, run+1)
		if err := read(ctx, "Synapse", r.options.Synapse); err != nil {
			return nil, err
		}
		if err := r.serving(ctx, r.options.SynapseDatabase, func(ctx context.Context, base string, _ *os.Process) error {
			return read(ctx, "Lethe", base)
		}); err != nil {
			return nil, err
		}
	}
	return []Row{
		m.compare(pagesPerSecond, "Lethe, admin", "Synapse, admin", "≥ 25"),
		m.compare(pagesPerSecond, "Lethe, member", "Synapse, member", "≥ 25"),
	}, nil
}
