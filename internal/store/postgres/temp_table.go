package postgres

import "github.com/jackc/pgx/v5"

// A TempTable is a temporary table that transactions use. It stays in its session from
// one to the next, with the rows of the last one.
//
// The transaction makes it, and not the code that opens connections: a pooler between
// Lethe and the server may move each transaction to another session.
//
// Statements name it with its schema, pg_temp, which is the last in the search_path:
// another role may have made a table of the same name in the homeserver's schema.
type TempTable struct {
	// Name has no schema and needs no quotes. Columns define the columns.
	Name, Columns string
}

// FewBytes is the size in bytes above which a temporary table is truncated.
const FewBytes = 1 << 16

// Create adds statements to the pipeline that make the table if it does not exist, and
// that read its size in bytes. If the size is above 0, the table must be cleared.
func (t TempTable) Create(pipeline *pgx.Batch) (size *int64) {
	size = new(int64)
	pipeline.Queue(`CREATE TEMPORARY TABLE IF NOT EXISTS pg_temp.` + t.Name + ` (` + t.Columns + `)`)
	pipeline.Queue(`SELECT pg_relation_size(to_regclass('pg_temp.` + t.Name + `'))`).QueryRow(func(row pgx.Row) error { return row.Scan(size) })
	return size
}

// Clear returns the statement that empties the table of the given size.
//
// After TRUNCATE, and also with ON COMMIT DELETE ROWS, the server plans all
// statements with the table again, which takes longer than a small transaction.
func (t TempTable) Clear(size int64) string {
	if size > FewBytes {
		return `TRUNCATE pg_temp.` + t.Name
	}
	return `DELETE FROM pg_temp.` + t.Name
}
