package roomwriter

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// writeAuthChain gives a state event its place in an auth chain. If the event that
// it replaces is the last of a chain, that is the place after it, and otherwise the
// first of a new chain. Links lead from there to the event's auth events, except to
// those that another of these links reaches already.
func (r *RoomWriter) writeAuthChain(ctx context.Context, e newEvent, auth []string) error {
	rows, err := r.w.b.Query(ctx, `
		SELECT coalesce(c.chain_id, 0), coalesce(c.sequence_number, 0), c.event_id IS NULL,
		       coalesce(s.type = $2 AND s.state_key = $3, false) AND NOT EXISTS (
		           SELECT FROM event_auth_chains n WHERE n.chain_id = c.chain_id AND n.sequence_number > c.sequence_number)
		FROM pg_catalog.unnest($1::text[]) AS a (event_id)
		LEFT JOIN event_auth_chains c USING (event_id)
		LEFT JOIN state_events s USING (event_id)`, auth, e.Type, *e.StateKey)
	if err != nil {
		return fmt.Errorf("read the auth chains: %w", err)
	}
	var at, next struct{ chain, sequence int64 }
	var unknown, last, anyUnknown bool
	if _, err := pgx.ForEachRow(rows, []any{&at.chain, &at.sequence, &unknown, &last}, func() error {
		anyUnknown = anyUnknown || unknown
		if last {
			next.chain, next.sequence = at.chain, at.sequence+1
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read the auth chains: %w", err)
	}
	if anyUnknown {
		// Synapse calculates the place later, when it knows the places of the auth
		// events.
		return r.run(ctx, []statement{{
			"write event_auth_chain_to_calculate", `
			INSERT INTO event_auth_chain_to_calculate (event_id, room_id, type, state_key) VALUES ($1, $2, $3, $4)`,
			[]any{e.ID, r.id, e.Type, *e.StateKey},
		}})
	}
	if next.chain == 0 {
		if err := r.w.b.QueryRow(ctx, `SELECT nextval('event_auth_chain_id'::regclass)`).Scan(&next.chain); err != nil {
			return fmt.Errorf("take the next auth chain: %w", err)
		}
		next.sequence = 1
	}
	return r.run(ctx, []statement{
		{
			"write event_auth_chains", `
			INSERT INTO event_auth_chains (event_id, chain_id, sequence_number) VALUES ($1, $2, $3)`,
			[]any{e.ID, next.chain, next.sequence},
		},
		{
			"write event_auth_chain_links", `
			WITH RECURSIVE auth AS (
				SELECT chain_id, sequence_number FROM event_auth_chains WHERE event_id = ANY ($1)
			), reached (chain_id, sequence_number) AS (
				SELECT l.target_chain_id, l.target_sequence_number
				FROM auth a JOIN event_auth_chain_links l
				  ON l.origin_chain_id = a.chain_id AND l.origin_sequence_number <= a.sequence_number
				UNION
				SELECT l.target_chain_id, l.target_sequence_number
				FROM reached r JOIN event_auth_chain_links l
				  ON l.origin_chain_id = r.chain_id AND l.origin_sequence_number <= r.sequence_number
			)
			INSERT INTO event_auth_chain_links
				(origin_chain_id, origin_sequence_number, target_chain_id, target_sequence_number)
			SELECT $2, $3, a.chain_id, a.sequence_number
			FROM auth a
			WHERE a.chain_id <> $2
			  AND NOT EXISTS (
				SELECT FROM reached r WHERE r.chain_id = a.chain_id AND r.sequence_number >= a.sequence_number)
			  AND NOT EXISTS (
				SELECT FROM auth o WHERE o.chain_id = a.chain_id AND o.sequence_number > a.sequence_number)`,
			[]any{auth, next.chain, next.sequence},
		},
	})
}
