// Package store knows PostgreSQL: Synapse's tables, Lethe's own in the schema
// "lethe", and all SQL that touches either, one file per question.
//
// It promises that a batch is one READ COMMITTED transaction that commits only
// while its run owns the job and its fence token is the room's newest, and that
// every commit of a history purge leaves what a finished purge to that batch's
// cut would leave. The end of a room leaves nothing of it in any table, but for
// what is named where the tables are listed, and may be begun again at any point.
// Times come from PostgreSQL's clock alone.
//
// It must never alter a table of Synapse's, hold more of a room in memory than the
// ids of one batch's events and the places of their rows, or decide what a job is
// for.
package store
