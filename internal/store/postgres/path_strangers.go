//go:build strangers

package postgres

// lastSchemas adds the schema with the functions and operators of the tests, as if another
// role had made them beside the homeserver's tables.
const lastSchemas = ", strangers, pg_temp"
