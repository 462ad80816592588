package doctor

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/plan"
	"lethe/internal/store/footprint"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// otherRoles returns what the report says about other roles.
func otherRoles(report Report) (found []Finding) {
	for _, f := range report {
		if f.About == "other roles" {
			found = append(found, f)
		}
	}
	return found
}

// stranger makes a role that may create in public, and returns its name in quotes.
func (w *ward) stranger() string {
	w.t.Helper()
	name, _ := w.newRole()
	quoted := pgx.Identifier{name}.Sanitize()
	w.exec(`GRANT CREATE ON SCHEMA public TO ` + quoted)
	return quoted
}

func TestRolesThatMayCreateBesideTheTables(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, w *ward) {
		w.exec(`REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
		report := examineAs(w, w.url)
		require.Len(t, otherRoles(report), 1)
		require.Equal(t, OK, otherRoles(report)[0].Verdict)

		stranger := w.stranger()
		owner, _ := w.newRole()
		w.exec(
			`GRANT CREATE ON SCHEMA public TO PUBLIC`,
			`GRANT CREATE ON SCHEMA public TO `+pgx.Identifier{w.role}.Sanitize(),
			`GRANT CREATE ON SCHEMA public TO `+pgx.Identifier{owner}.Sanitize(),
			`ALTER TABLE events OWNER TO `+pgx.Identifier{owner}.Sanitize(),
			`SET ROLE `+stranger,
			`CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT NULL'`,
			`CREATE FUNCTION public.same(varchar, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
			`CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = text, FUNCTION = public.same)`,
			`RESET ROLE`)
		found := otherRoles(examineAs(w, w.plainURL()))
		require.Len(t, found, 2)
		require.Equal(t, Mend, found[0].Verdict)
		require.ElementsMatch(t, []string{
			`REVOKE CREATE ON SCHEMA public FROM ` + stranger + `;`, `REVOKE CREATE ON SCHEMA public FROM PUBLIC;`,
		}, found[0].Do, "not from Lethe, nor from the owner of the tables")
		require.Equal(t, Advice, found[1].Verdict)
		for _, name := range []string{"unnest(text[])", "same(character varying,text)", "=(character varying,text)"} {
			require.Contains(t, found[1].Says, name)
		}

		w.exec(found[0].Do...)
		found = otherRoles(examineAs(w, w.plainURL()))
		require.Len(t, found, 1, "which are made stay")
		require.Equal(t, Advice, found[0].Verdict)
	})
}

// Whatever another role makes in the homeserver's schema, none of it runs when Lethe purges,
// deletes, plans and reads. Each function notes in a sequence that it ran, which no
// rollback undoes, and fails. The tables have the names of Lethe's temporary tables.
func TestStrangersFunctionsDoNotRun(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	for range 2 { // the doctor knows what makes purges fast only when it may read the tables
		for _, f := range examineAs(w, w.plainURL()) {
			w.exec(f.Do...)
		}
	}
	stranger := w.stranger()
	w.exec(`SET ROLE `+stranger, `CREATE SEQUENCE public.ran`, `
		CREATE FUNCTION public.run() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
		BEGIN
			PERFORM pg_catalog.nextval('public.ran'::regclass);
			RAISE 'a function of another role ran';
		END $$`)
	for _, function := range []string{
		"array_agg(text)", "array_position(text[], text)", "cardinality(text[])", "cardinality(smallint[])", "concat_ws(text, text)",
		"count(text)", "count(bigint)", "format(text, VARIADIC text[])", "format(text, text, text)", "hashtextextended(text, integer)",
		"jsonb_build_object(text, text)", "jsonb_object_agg(text, bigint)", "nextval(text)", "to_tsvector(text, text)", "unnest(text[])",
		"unnest(bigint[])",
	} {
		name, arguments, _ := strings.Cut(function, "(")
		if name == "array_agg" || name == "count" || name == "jsonb_object_agg" {
			w.exec(`CREATE FUNCTION public.step_of_` + name + `(text, ` + arguments + ` RETURNS text LANGUAGE sql AS 'SELECT public.run()'`)
			w.exec(`CREATE AGGREGATE public.` + function + ` (SFUNC = public.step_of_` + name + `, STYPE = text, INITCOND = '')`)
			continue
		}
		w.exec(`CREATE FUNCTION public.` + function + ` RETURNS text LANGUAGE sql AS 'SELECT public.run()'`)
	}
	for _, operator := range [][3]string{
		{"=", "varchar", "text"},
		{"=", "varchar", "varchar"},
		{"=", "oid", "regclass"},
		{"&&", "text[]", "text[]"},
		{"||", "text", "bigint"},
		{"||", "bigint", "bigint"},
		{"*", "numeric", "integer"},
		{"*", "integer", "interval"},
		{"<", "bigint", "numeric"},
		{"->", "jsonb", "jsonb"},
		{"->>", "jsonb", "jsonb"},
		{"?", "jsonb", "jsonb"},
	} {
		w.exec(`CREATE OR REPLACE FUNCTION public.operate(`+operator[1]+`, `+operator[2]+`) RETURNS boolean LANGUAGE sql AS 'SELECT public.run()::boolean'`,
			`CREATE OPERATOR public.`+operator[0]+` (LEFTARG = `+operator[1]+`, RIGHTARG = `+operator[2]+`, FUNCTION = public.operate)`)
	}
	for _, table := range []string{"lethe_selected", "lethe_groups", "lethe_chains"} {
		w.exec(`CREATE TABLE public.`+table+` (none_of_these text)`, `GRANT ALL ON public.`+table+` TO PUBLIC`)
	}
	w.exec(`RESET ROLE`)

	_, err := w.conn.Exec(w.ctx, `SELECT unnest('{a}'::text[])`)
	require.ErrorContains(t, err, "a function of another role ran", "on the test's connection")
	w.exec(`SELECT setval('public.ran', 1, false)`)

	require.Equal(t, storetest.RowWise(t, w.conn), w.purge(w.rooms[0]), "the purge and the delete are done at once")
	w.readPages()
	w.hold()
	db, err := postgres.Open(w.ctx, w.plainURL(), postgres.Options{})
	require.NoError(t, err)
	defer db.Close()
	planner := plan.New(db, plan.Options{Purger: purge.New(db, purge.Options{}), Footprint: footprint.Options{ServerName: serverName}})
	planned, err := planner.Plan(w.ctx, plan.Request{Room: w.rooms[1].Room, Kind: jobs.DeleteRoom})
	require.NoError(t, err)
	require.NotZero(t, planned)
	var ran bool
	require.NoError(t, w.conn.QueryRow(w.ctx, `SELECT is_called FROM public.ran`).Scan(&ran))
	require.False(t, ran)
}
