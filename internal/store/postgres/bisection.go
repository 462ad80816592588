package postgres

// Bisection is a common table expression that finds the place of each moment in the
// stream of all rooms. The moments are the column ts of a table called moments. The
// place is high in the row where low >= high. An event without an arrival time
// counts as older than all others. If there are no events the place is NULL, which
// no event is before.
//
// OFFSET 0 makes the planner check each place once, and not once per use.
const Bisection = `
		bisection (ts, low, high) AS (
			SELECT ts, 0::bigint, (SELECT max(stream_ordering) + 1 FROM events) FROM moments
			UNION ALL
			SELECT ts,
			       CASE WHEN late THEN low ELSE middle + 1 END,
			       CASE WHEN late THEN middle ELSE high END
			FROM bisection,
			     LATERAL (SELECT low + (high - low) / 2) AS half (middle),
			     LATERAL (SELECT coalesce(ts <= (
				SELECT received_ts FROM events
				WHERE stream_ordering <= middle
				ORDER BY stream_ordering DESC
				LIMIT 1), false) OFFSET 0) AS probe (late)
			WHERE low < high
		)`
