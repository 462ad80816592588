//go:build strangers

package devstacktest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"
)

// addStrangers makes what another role could make in the homeserver's schema, if it may
// create there: functions and operators with the names that Lethe's statements use, for
// types that fit better than those of the server's own. Each fails when it runs. The order
// of the search_path does not help against them: an exact match always wins.
func addStrangers(ctx context.Context, url string) error {
	names, err := calledNames()
	if err != nil {
		return fmt.Errorf("add strangers: %w", err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("add strangers: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err = conn.Exec(ctx, `SELECT set_config('strangers.names', array_to_string($1::text[], ','), false)`, names); err == nil {
		_, err = conn.Exec(ctx, makeStrangers)
	}
	if err != nil {
		return fmt.Errorf("add strangers: %w", err)
	}
	return nil
}

// calledNames returns all words before a parenthesis in the store's code.
func calledNames() (names []string, err error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	word := regexp.MustCompile(`\b[a-z_0-9]+\(`)
	err = filepath.WalkDir(filepath.Join(root, "internal", "store"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, found := range word.FindAllString(string(text), -1) {
			names = append(names, found[:len(found)-1])
		}
		return err
	})
	slices.Sort(names)
	return slices.Compact(names), err
}

const makeStrangers = `
	CREATE SCHEMA IF NOT EXISTS strangers;
	GRANT USAGE ON SCHEMA strangers TO PUBLIC;
	DO $$
	DECLARE
		types text[] := '{text,character varying,name,bigint,integer,smallint,numeric,double precision,jsonb,json,boolean,timestamptz,interval,oid,regclass,text[],bigint[],integer[]}';
		arguments text;
		called record;
	BEGIN
		FOR called IN
			SELECT DISTINCT p.proname, a.arguments
			FROM pg_proc p, LATERAL (
				SELECT one AS arguments FROM unnest(types) AS one
				UNION ALL SELECT one || ', ' || other FROM unnest(types) AS one, unnest(types) AS other WHERE p.pronargs <> 1
				UNION ALL SELECT 'VARIADIC ' || t FROM unnest('{text[],bigint[],jsonb[]}'::text[]) AS t WHERE p.provariadic <> 0
				UNION ALL SELECT 'text, VARIADIC ' || t FROM unnest('{text[],bigint[],name[]}'::text[]) AS t WHERE p.provariadic <> 0
			) a
			WHERE p.pronamespace = 'pg_catalog'::regnamespace
			  AND p.proname = ANY (string_to_array(current_setting('strangers.names'), ','))
		LOOP
			EXECUTE format('CREATE OR REPLACE FUNCTION strangers.%I(%s) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RAISE ''the stranger %s(%s) ran''; END $f$',
				called.proname, called.arguments, called.proname, called.arguments);
		END LOOP;
		FOR called IN
			SELECT o.oprname, l.t AS l, r.t AS r
			FROM unnest('{=,<>,<,<=,>,>=,+,-,*,/,%,||,&&,@>,<@,->,->>,~,!~,?}'::text[]) AS o (oprname), unnest(types) AS l (t), unnest(types) AS r (t)
			WHERE NOT EXISTS (
				SELECT FROM pg_operator e WHERE e.oprname = o.oprname AND e.oprleft = l.t::regtype AND e.oprright = r.t::regtype)
		LOOP
			EXECUTE format('CREATE OR REPLACE FUNCTION strangers.operator(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RAISE ''a stranger operator (%s, %s) ran''; END $f$',
				called.l, called.r, called.l, called.r);
			EXECUTE format('CREATE OPERATOR strangers.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = strangers.operator)', called.oprname, called.l, called.r);
		END LOOP;
	END $$`
