package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/config"
	"lethe/internal/output"
	"lethe/internal/schema"
	"lethe/internal/store/postgres"
	"lethe/internal/store/vacuum"
)

const aboutVacuum = "vacuum"

// examineVacuumRole checks what a role needs to vacuum the tables that jobs empty. Without
// a name it is the role of vacuum.database_url, or else of database.url.
func (r *Report) examineVacuumRole(ctx context.Context, settings config.Config, role string) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{ApplicationName: "lethe doctor", MaxConnections: 2})
	if err != nil {
		r.add(Mend, "database", err.Error())
		return
	}
	defer db.Close()
	if role == "" {
		role, err = vacuumRole(ctx, db, settings)
	}
	var rights vacuum.Rights
	if err == nil {
		rights, err = vacuum.New(db).Rights(ctx, role, emptiedTables(settings.Tables))
	}
	switch {
	case errors.Is(err, vacuum.ErrNoRole):
		r.add(Mend, aboutVacuum, "the database has no role "+shown(role)+"; create it as a superuser:",
			"CREATE ROLE "+pgx.Identifier{role}.Sanitize()+" LOGIN PASSWORD '…';")
	case err != nil:
		r.add(Mend, aboutVacuum, err.Error())
	case len(rights.Tables) == 0:
		r.add(OK, aboutVacuum, "the role "+shown(role)+" may vacuum all tables that jobs empty")
	case rights.Maintain:
		r.add(Mend, aboutVacuum, fmt.Sprintf("the role %s may not vacuum %s that jobs empty; run as the owner, or as a superuser:",
			shown(role), output.Counted(len(rights.Tables), "table")), rights.Grants...)
	default:
		r.add(Mend, aboutVacuum, fmt.Sprintf("the role %s may not vacuum %s that jobs empty. Before PostgreSQL 17 only an owner may, "+
			"so this makes the role a member of the owner, with all rights of the owner; run as a superuser:",
			shown(role), output.Counted(len(rights.Tables), "table")), rights.Grants...)
	}
}

// vacuumRole returns the role that vacuums.
func vacuumRole(ctx context.Context, db *postgres.DB, settings config.Config) (role string, err error) {
	if settings.Vacuum.DatabaseURL == "" {
		err = db.ReadRow(ctx, []any{&role}, `SELECT current_user::text`)
		return role, err
	}
	session, err := vacuum.New(db).Open(ctx, string(settings.Vacuum.DatabaseURL), "lethe doctor")
	if err != nil {
		return "", fmt.Errorf("vacuum.database_url: %w", err)
	}
	defer session.Close()
	return session.Role(), nil
}

// emptiedTables returns the names of the homeserver's tables from which jobs delete rows.
func emptiedTables(rules schema.Rules) []string {
	var tables []string
	for _, need := range schema.Needs(schema.Worker) {
		if !need.Own && need.Privilege == "DELETE" {
			tables = append(tables, need.Name)
		}
	}
	tables = append(tables, rules.Deleting()...)
	slices.Sort(tables)
	return slices.Compact(tables)
}

// examineVacuum says which role vacuums after jobs, and what can be had of the space that
// they have left.
func (r *Report) examineVacuum(ctx context.Context, db *postgres.DB, settings config.Config, role string, addError func(string, error)) {
	queries := vacuum.New(db)
	if !settings.Vacuum.Enabled {
		r.add(OK, aboutVacuum, "vacuum.enabled is false: autovacuum alone vacuums what jobs have emptied")
	} else {
		var err error
		if role == "" || settings.Vacuum.DatabaseURL != "" {
			role, err = vacuumRole(ctx, db, settings)
		}
		var rights vacuum.Rights
		if err == nil {
			rights, err = queries.Rights(ctx, role, emptiedTables(settings.Tables))
		}
		switch {
		case errors.Is(err, vacuum.ErrNoRole): // privileges say so
		case err != nil:
			r.add(Advice, aboutVacuum, err.Error())
		case len(rights.Tables) > 0:
			r.add(Advice, aboutVacuum, fmt.Sprintf("the role %s may not vacuum %s that jobs empty: autovacuum alone does; "+
				"lethe doctor --for vacuum says what to grant", shown(role), output.Counted(len(rights.Tables), "table")))
		default:
			r.add(OK, aboutVacuum, "the role "+shown(role)+" may vacuum all tables that jobs empty")
		}
	}
	tables, err := queries.Emptied(ctx)
	if err != nil {
		addError("space", err)
	}
	for _, t := range tables {
		r.add(OK, "space", t.Name+", estimated by the server's statistics: "+spaceOf(*t.Space))
	}
}

// spaceOf says what can be had of a table's space.
func spaceOf(s vacuum.Space) string {
	return strings.Join([]string{
		output.Size(s.Bytes) + " with its indexes",
		output.Size(s.Dead) + " are dead rows until a VACUUM",
		output.Size(s.Reusable) + " are free for new rows",
		"a VACUUM with TRUNCATE may return " + output.Size(s.Returnable),
		"a rewrite, by pg_repack or REPACK (CONCURRENTLY) of PostgreSQL 19, would return " + output.Size(s.Rewrite),
	}, ", ")
}
