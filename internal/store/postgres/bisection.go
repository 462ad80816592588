package postgres

// Bisection is the common table expression that searches for every moment, a ts of
// the table moments, in the stream of all rooms: high is its place where
// low >= high. An event without an arrival time counts as arrived before all
// others. An empty table gives a null, and no event is before that.
//
// OFFSET 0 has each place looked at once, and not for each use.
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
