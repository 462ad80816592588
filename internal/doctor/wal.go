package doctor

import (
	"context"
	"errors"

	"lethe/internal/config"
	"lethe/internal/store/checkup"
	"lethe/internal/store/postgres"
	"lethe/internal/store/wal"
)

// examineWAL says how the WAL of a worker's deletes is compressed, and offers the right to
// compress it better.
func (r *Report) examineWAL(ctx context.Context, db *postgres.DB, settings config.Config, role checkup.Role) {
	const about = "wal"
	server, err := wal.Look(ctx, db, role.Name)
	if errors.Is(err, wal.ErrNoRole) {
		return // which the privileges say
	}
	var value string
	if err == nil {
		value, err = server.Value(wal.Compression(settings.Worker.WALCompression))
	}
	switch own := "the server's own wal_compression is " + server.Own; {
	case errors.Is(err, wal.ErrUnusable) && !server.May && !server.OnlySuperusers:
		r.add(Mend, about, "worker.wal_compression is "+settings.Worker.WALCompression+", and the role may not set it; run as a superuser:", server.Grant)
	case err != nil:
		r.add(Mend, about, err.Error())
	case value != "":
		r.add(OK, about, "the WAL of deletes is compressed: workers set wal_compression to "+value)
	case server.Compresses():
		r.add(OK, about, "the WAL of deletes is compressed: "+own)
	case settings.Worker.WALCompression == string(wal.Off):
		r.add(Advice, about, "the WAL of deletes is not compressed: worker.wal_compression is off, and "+own)
	case server.OnlySuperusers:
		r.add(Advice, about, "the WAL of deletes is not compressed: "+own+", and before PostgreSQL 15 only a superuser may set it; run as a superuser:",
			"ALTER SYSTEM SET wal_compression = on;", "SELECT pg_reload_conf();")
	default:
		r.add(Advice, about, "the WAL of deletes is not compressed, and could be half as large: "+own+", and the role may not set it; run as a superuser:",
			server.Grant)
	}
}
