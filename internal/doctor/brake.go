package doctor

import (
	"context"
	"errors"

	"lethe/internal/config"
	"lethe/internal/store/checkup"
	"lethe/internal/store/postgres"
	"lethe/internal/store/pressure"
)

// examineBrake checks that a worker sees what its jobs should slow down for.
func (r *Report) examineBrake(ctx context.Context, db *postgres.DB, settings config.Config, role checkup.Role) {
	const about = "brake"
	if !settings.Brake.Enabled {
		r.add(OK, about, "brake.enabled is false: jobs do not slow down for anything")
		return
	}
	grant, blind, err := pressure.New(db).Blind(ctx, role.Name)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		return // there is no such role, which the privileges say
	case err != nil:
		r.add(Mend, about, err.Error())
	case blind:
		r.add(Advice, about, "jobs do not slow down for standbys and the archive, because the role does not see how far they are:", grant)
	default:
		r.add(OK, about, "the role sees what jobs should slow down for")
	}
}
