package doctor

import (
	"context"

	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
)

// examineDeployment checks that the id of the deployment was made for this database, and
// tells it.
func (r *Report) examineDeployment(ctx context.Context, db *postgres.DB, addError func(about string, err error)) {
	const about = "deployment"
	id, err := migrate.Deployment(ctx, db)
	if err != nil {
		addError(about, err)
		return
	}
	r.add(OK, about, "its id is "+id+": in Redis its keys begin with lethe:"+id+": and asynq:{lethe:"+id+":")
}
