package doctor

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/checkup"
	"lethe/internal/store/postgres"
)

// examineOtherRoles checks that only roles that Lethe must trust anyway may make functions
// beside the homeserver's tables. A function there that fits a call better than one of the
// server's would run as the role that calls it.
func (r *Report) examineOtherRoles(ctx context.Context, db *postgres.DB, role checkup.Role) {
	const about = "other roles"
	found, err := checkup.LookForOtherRoles(ctx, db, role)
	schema := pgx.Identifier{found.Schema}.Sanitize()
	switch {
	case errors.Is(err, checkup.ErrNoRole):
		return // which the privileges say
	case err != nil:
		r.add(Mend, about, err.Error())
		return
	case found.Schema == "":
		return // there are no tables yet, which the schema says
	case len(found.Revokes) > 0:
		r.add(Mend, about, "other roles may create functions in the schema "+schema+
			", which could run as Lethe's role; run as the owner of the schema, or as a superuser:", found.Revokes...)
	case len(found.Made) == 0:
		r.add(OK, about, "no other role may create functions beside the homeserver's tables, or has made any")
	}
	if len(found.Made) > 0 {
		r.add(Advice, about, "other roles have made functions or operators in the schema "+schema+
			"; drop those that you do not need: "+strings.Join(found.Made, ", "))
	}
}
