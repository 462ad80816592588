package schema_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
)

func TestFatesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/what-stays.md")
	require.NoError(t, err)
	for _, table := range schema.Tables() {
		row := fmt.Sprintf("| `%s` | %s | %s | %s |", table.Name, table.Purge, table.Delete, table.Why)
		require.Equal(t, table.Purge != "", strings.Contains(string(page), row), row)
		require.Equal(t, table.Purge == "", table.Delete == "", table.Name)
	}
}

func TestTablesAreWellFormed(t *testing.T) {
	t.Parallel()
	compare := func(a, b schema.Table) int { return strings.Compare(a.Name, b.Name) }
	require.True(t, slices.IsSortedFunc(schema.Tables(), compare))
	for _, table := range schema.Tables() {
		for right := range strings.FieldsSeq(table.Rights) {
			require.Contains(t, []string{"SELECT", "INSERT", "UPDATE", "DELETE"}, right, table.Name)
		}
		for right := range strings.FieldsSeq(table.API) {
			privilege, column, limited := strings.Cut(strings.TrimSuffix(right, ")"), "(")
			require.Contains(t, []string{"INSERT", "UPDATE", "DELETE"}, privilege, table.Name)
			require.True(t, !limited || schema.Known(table.Name, column), table.Name)
			require.NotEmpty(t, table.Used(schema.API.Uses()), table.Name)
		}
		for _, column := range table.Used(schema.UseAll) {
			require.Contains(t, []string{"text", "text[]", "int", "bool", "jsonb", "tsvector"}, column.Kind, table.Name)
		}
		for key := range strings.SplitSeq(table.Keys, ",") {
			for column := range strings.SplitSeq(strings.TrimSpace(key), "+") {
				require.True(t, column == "" || schema.Known(table.Name, column), "%s: %s", table.Name, key)
			}
		}
		require.True(t, table.Cascade == "" || schema.Known(table.Name, table.Cascade) && table.References, table.Name)
	}
}

func TestKind(t *testing.T) {
	t.Parallel()
	for formatted, kind := range map[string]string{
		"text": "text", "character varying(255)": "text", "smallint": "int", "bigint": "int", "boolean": "bool",
		"bytea": "bytea", "numeric(10,2)": "numeric(10,2)", "text[]": "text[]",
	} {
		require.Equal(t, kind, schema.Kind(formatted))
	}
}

func TestKnownDelta(t *testing.T) {
	t.Parallel()
	require.True(t, schema.KnownDelta(94, "94/01_redactions_recheck.sql"))
	require.True(t, schema.KnownDelta(54, "54/older.sql"))
	require.False(t, schema.KnownDelta(94, "94/99_unheard_of.sql"))
	require.False(t, schema.KnownDelta(95, "95/01_redactions_recheck.sql"))
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a=keep", "a_1=delete_by_room", "a=delete_by_event", "event_reports=keep", "event_reports=delete_by_event", "event_reports=delete_by_room", "room_reports=keep", "room_reports=delete_by_room"} {
		_, _, err := schema.ParseRule(text)
		require.NoError(t, err, text)
	}
	for _, text := range []string{"", "=keep", "a", "a=", "a=Keep", "A=keep", `a"=keep`, "a.b=keep", "events=keep", "a=keep=keep", "room_reports=delete_by_event", "event_reports=forget"} {
		_, _, err := schema.ParseRule(text)
		require.Error(t, err, text)
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	of := func(name, privilege string, processes ...schema.Process) []schema.Need {
		return slices.DeleteFunc(schema.Needs(processes...), func(n schema.Need) bool {
			return n.Name != name || n.Privilege != privilege
		})
	}
	require.Equal(t, []schema.Need{{Name: "users", Privilege: "SELECT", Columns: []string{"name"}}}, of("users", "SELECT", schema.Worker))
	asynqmon := []string{"admin", "deactivated", "is_guest", "locked", "name"}
	require.ElementsMatch(t, asynqmon, of("users", "SELECT", schema.Asynqmon)[0].Columns)
	both := of("users", "SELECT", schema.Worker, schema.Asynqmon)
	require.Equal(t, []schema.Need{{Name: "users", Privilege: "SELECT", Columns: asynqmon}}, both)

	require.Equal(t, []schema.Need{{Name: "rooms", Privilege: "UPDATE", Columns: []string{"is_public"}}}, of("rooms", "UPDATE", schema.API))
	whole := []schema.Need{{Name: "rooms", Privilege: "UPDATE"}}
	require.Equal(t, whole, of("rooms", "UPDATE", schema.API, schema.Worker))
	require.Equal(t, whole, of("rooms", "UPDATE", schema.Worker, schema.API))
	require.Equal(t, []schema.Need{{Own: true, Name: "jobs", Privilege: "DELETE"}}, of("jobs", "DELETE", schema.Processes()...))
	require.Empty(t, schema.Needs())
	for _, need := range schema.Needs(schema.Processes()...) {
		require.NotContains(t, need.Columns, "password_hash")
	}
}

func TestParseProcess(t *testing.T) {
	t.Parallel()
	for _, p := range schema.Processes() {
		parsed, err := schema.ParseProcess(string(p))
		require.NoError(t, err)
		require.Equal(t, p, parsed)
		require.Equal(t, p == schema.Scheduler, p.Uses()&schema.UseSchedule != 0)
	}
	for _, name := range []string{"", "API", "reader", "api "} {
		_, err := schema.ParseProcess(name)
		require.ErrorContains(t, err, "is not one of api, worker, scheduler and asynqmon")
	}
}
