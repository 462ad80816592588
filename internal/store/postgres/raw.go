package postgres

import (
	"context"
	"encoding/binary"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// A RawArray is an array in the server's binary format. It is passed from one
// connection to another unchanged.
type RawArray []byte

// Len returns the number of elements.
func (a RawArray) Len() int64 {
	if len(a) < 16 || binary.BigEndian.Uint32(a) == 0 { // its dimensions
		return 0
	}
	return int64(binary.BigEndian.Uint32(a[12:]))
}

// Of returns the array as a value of the type with the oid.
func (a RawArray) Of(oid uint32) RawValue { return RawValue{a, oid} }

// A RawValue is a value in the server's binary format.
type RawValue struct {
	value []byte
	oid   uint32
}

// RawText returns a text as a value.
func RawText(s string) RawValue { return RawValue{[]byte(s), pgtype.TextOID} }

// ExecRaw runs a statement that returns at most one row. It returns the row in the
// server's binary format, and the number of rows that the statement has returned or
// written. No row is nil.
func ExecRaw(ctx context.Context, conn *pgx.Conn, sql string, parameters ...RawValue) (row [][]byte, rows int64, err error) {
	values, oids := make([][]byte, len(parameters)), make([]uint32, len(parameters))
	for i, p := range parameters {
		values[i], oids[i] = p.value, p.oid
	}
	const binaryFormat = 1
	result := conn.PgConn().ExecParams(ctx, sql, values, oids, []int16{binaryFormat}, []int16{binaryFormat}).Read()
	if result.Err != nil || len(result.Rows) == 0 {
		return nil, result.CommandTag.RowsAffected(), result.Err
	}
	return result.Rows[0], result.CommandTag.RowsAffected(), nil
}
