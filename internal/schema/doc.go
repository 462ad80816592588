// Package schema knows Synapse's tables: which columns and keys of theirs Lethe uses,
// what purges and deletes do with their rows, and what the operator says about tables
// that Lethe does not know. It also knows which rights each process needs, on these and
// on Lethe's own tables.
//
// It promises to list every table that a statement of Lethe's names. It must never use
// a database.
package schema
