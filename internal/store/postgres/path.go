//go:build !strangers

package postgres

// lastSchemas ends the search_path of every session. Temporary tables come last, so that a
// name without a schema never means one of them.
const lastSchemas = ", pg_temp"
