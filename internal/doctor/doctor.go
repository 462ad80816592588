package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"

	"lethe/internal/config"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
	"lethe/internal/store/census"
	"lethe/internal/store/checkup"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/roomwriter"
)

// examineTimeout is the longest time for the checks of one server.
const examineTimeout = 30 * time.Second

// A Verdict is how bad a finding is.
type Verdict string

const (
	// OK means that nothing needs to be done.
	OK Verdict = "ok"
	// Advice means that Lethe works, but could work better.
	Advice Verdict = "advice"
	// Mend means that Lethe cannot work.
	Mend Verdict = "MEND"
)

// A Finding is the result of one check.
type Finding struct {
	// Verdict is how bad the finding is.
	Verdict Verdict

	// About is a short name of what was checked, such as "schema".
	About string

	// Says is what was found.
	Says string

	// Do is the statements or commands that solve the problem. Empty if there is
	// no problem, or if Says has the solution.
	Do []string
}

// A Report is all findings, in the order in which problems should be solved.
type Report []Finding

// Healthy reports whether Lethe can work.
func (r Report) Healthy() bool {
	return !slices.ContainsFunc(r, func(f Finding) bool { return f.Verdict == Mend })
}

// Print writes the report as text: one line for each finding, followed by what to
// do.
func (r Report) Print(w io.Writer) error {
	for _, f := range r {
		lines := fmt.Sprintf("%-7s %-11s %s\n", f.Verdict, f.About, f.Says)
		for _, do := range f.Do {
			lines += fmt.Sprintf("%20s%s\n", "", do)
		}
		if _, err := io.WriteString(w, lines); err != nil {
			return fmt.Errorf("print the report: %w", err)
		}
	}
	return nil
}

func (r *Report) add(verdict Verdict, about, says string, do ...string) {
	*r = append(*r, Finding{Verdict: verdict, About: about, Says: says, Do: do})
}

// Examine checks the database and the Redis servers that the settings name, and where
// access tokens are checked.
func Examine(ctx context.Context, settings config.Config) Report {
	var report Report
	report.examineDatabase(ctx, settings)
	report.examineRedis(ctx, settings)
	report.examineAccounts(ctx, settings)
	return report
}

// ExamineDeep compares each index that purges use with its table. It reads all of
// these tables, which takes minutes to hours.
func ExamineDeep(ctx context.Context, settings config.Config) Report {
	var report Report
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{ApplicationName: "lethe doctor", MaxConnections: 2})
	if err != nil {
		report.add(Mend, "deep", err.Error())
		return report
	}
	defer db.Close()
	checked, corrupt, err := checkup.CheckIndexes(ctx, db)
	for _, index := range corrupt {
		report.add(Mend, "deep", "the index "+index.Name+" is corrupt ("+index.Reason+"); rebuild it:",
			"REINDEX INDEX CONCURRENTLY "+index.Name+";")
	}
	switch {
	case errors.Is(err, checkup.ErrNoAmcheck):
		report.add(Mend, "deep", err.Error()+"; create it as a superuser:", "CREATE EXTENSION amcheck;",
			"GRANT EXECUTE ON FUNCTION bt_index_check(regclass, boolean) TO lethe; -- the role of Lethe")
	case isDenied(err):
		report.add(Mend, "deep", "the role may not check indexes; run as a superuser, with the role of Lethe:",
			"GRANT EXECUTE ON FUNCTION bt_index_check(regclass, boolean) TO lethe;")
	case err != nil:
		report.add(Mend, "deep", err.Error())
	case len(corrupt) == 0:
		report.add(OK, "deep", fmt.Sprintf("the %d indexes that purges use match their tables", checked))
	}
	return report
}

// isDenied reports whether the role lacks a privilege.
func isDenied(err error) bool {
	var refused *pgconn.PgError
	const insufficientPrivilege = "42501"
	return errors.As(err, &refused) && refused.Code == insufficientPrivilege
}

// examineDatabase checks PostgreSQL.
func (r *Report) examineDatabase(ctx context.Context, settings config.Config) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{ApplicationName: "lethe doctor", MaxConnections: 2})
	if err == nil {
		defer db.Close()
		err = db.Ping(ctx)
	}
	if err != nil {
		r.add(Mend, "database", err.Error())
		return
	}
	r.add(OK, "database", "it answers")

	grants, err := checkup.LackingPrivileges(ctx, db, settings.Tables)
	switch {
	case err != nil:
		r.add(Mend, "privileges", err.Error())
	case len(grants) > 0:
		r.add(Mend, "privileges", "the role lacks privileges that Lethe needs; run as the owner of the tables, or as a superuser:", grants...)
	default:
		r.add(OK, "privileges", "the role has all privileges that Lethe needs")
	}
	// The other checks may fail only because the role lacks privileges.
	addError := func(about string, err error) {
		if isDenied(err) && len(grants) > 0 {
			r.add(Mend, about, "not checked, because the role lacks privileges")
			return
		}
		r.add(Mend, about, err.Error())
	}

	if err := migrate.CheckSchema(ctx, db); err != nil {
		addError("schema", err)
	} else {
		r.add(OK, "schema", "this version of Lethe knows the tables of Lethe and of the homeserver")
		r.examineFederation(ctx, db, addError)
	}
	r.examinePresence(ctx, db, addError)
	r.examineVersions(ctx, db, addError)
	r.examineTables(ctx, db, settings)
	r.examineServerName(ctx, db, settings, addError)
}

// examinePresence warns of a homeserver that works on the same database.
func (r *Report) examinePresence(ctx context.Context, db *postgres.DB, addError func(string, error)) {
	switch found, err := checkup.LookForHomeserver(ctx, db); {
	case err != nil:
		addError("beside", err)
	case found.Seen():
		says := "a homeserver seems to be at work on this database:"
		if found.Sessions > 0 {
			says += fmt.Sprintf(" the role %s has %d sessions;", found.Role, found.Sessions)
		}
		if found.Locks > 0 {
			says += fmt.Sprintf(" %d of its locks are fresh;", found.Locks)
		}
		r.add(Advice, "beside", says+" stop it before a worker purges or deletes, because it would go on using what is deleted")
	default:
		r.add(OK, "beside", "no homeserver seems to be at work on this database")
	}
}

// examineVersions reports what Synapse has recorded about its schema.
func (r *Report) examineVersions(ctx context.Context, db *postgres.DB, addError func(string, error)) {
	versions, ok, err := census.ReadVersions(ctx, db)
	switch {
	case isDenied(err):
		r.add(Advice, "versions", "not checked, because the role may not read schema_version and applied_schema_deltas")
	case err != nil:
		addError("versions", err)
	case !ok:
		r.add(OK, "versions", "Lethe has made the homeserver's tables")
	case len(versions.Unknown) > 0:
		r.add(Advice, "versions", fmt.Sprintf("%s, of which Lethe was not tested with %s; what Lethe uses of them is checked below",
			describe(versions), strings.Join(versions.Unknown, ", ")))
	default:
		r.add(OK, "versions", describe(versions))
	}
}

func describe(v census.Versions) string {
	return fmt.Sprintf("Synapse's schema has the version %d, the compat_version %d and %d changes in applied_schema_deltas",
		v.Version, v.Compat, v.Deltas)
}

// examineTables checks the tables that purges, deletes, shutdowns and reads use.
func (r *Report) examineTables(ctx context.Context, db *postgres.DB, settings config.Config) {
	purger := purge.New(db, purge.Options{Compat: settings.SchemaCompat, Tables: settings.Tables})
	var problems []string
	add := func(problem string) {
		if !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	catalog, history := purger.HistoryCatalog(ctx)
	_, room := purger.RoomCatalog(ctx)
	for _, err := range []error{history, room, purger.CheckShutdown(ctx)} {
		if err == nil {
			continue
		}
		for line := range strings.Lines(err.Error()) {
			if _, problem, found := strings.Cut(line, purge.ErrCatalog.Error()+": "); found {
				line = problem
			}
			add(strings.TrimSpace(line))
		}
	}
	reads, err := census.Differences(ctx, db, schema.UseRead, settings.Tables)
	if err != nil {
		add(err.Error())
	}
	for _, difference := range reads {
		add(difference)
	}
	for _, problem := range problems {
		r.add(Mend, "tables", problem)
	}
	if len(problems) == 0 {
		r.add(OK, "tables", "Lethe knows everything that it uses and all that it could harm")
		r.examineSpeed(ctx, db, catalog)
	}
}

// examineFederation says which deletes wait until the homeserver has told other
// servers that users have left.
func (r *Report) examineFederation(ctx context.Context, db *postgres.DB, addError func(string, error)) {
	deletes, place, err := journal.New(db).WaitingDeletes(ctx)
	var position int64
	if err == nil && deletes > 0 {
		position, _, err = roomwriter.FederationPosition(ctx, db)
	}
	switch {
	case err != nil:
		addError("federation", err)
	case deletes > 0 && position < place:
		r.add(Advice, "federation", fmt.Sprintf("%d deletes wait until the homeserver has told other servers that users have left "+
			"(federation_stream_position is %d and must reach %d): run the homeserver until then; if it will never run again, set force_purge:", deletes, position, place),
			`UPDATE lethe.jobs SET parameters = parameters || '{"force_purge": true}' WHERE state = 'queued' AND checkpoint ? 'leaves_at';`)
	}
}

// examineSpeed checks what makes purges fast.
func (r *Report) examineSpeed(ctx context.Context, db *postgres.DB, catalog purge.Catalog) {
	grants, superuser, err := checkup.LackingForSetWise(ctx, db, catalog)
	const slow = "references are checked row by row, which is much slower than checking them all at once: "
	switch why := catalog.RowWise(); {
	case err != nil:
		r.add(Mend, "speed", err.Error())
	case why == "" && len(grants) > 0:
		r.add(Mend, "speed", "references are checked all at once, but the role lacks privileges for that:", grants...)
	case why == "":
		r.add(OK, "speed", "references are checked all at once")
	case superuser:
		r.add(Advice, "speed", slow+why+"; before PostgreSQL 15 only a superuser can check them all at once")
	default:
		r.add(Advice, "speed", slow+why, grants...)
	}

	indexes, err := checkup.LackingIndexes(ctx, db, catalog)
	switch {
	case err != nil:
		r.add(Mend, "indexes", err.Error())
	case len(indexes) > 0:
		r.add(Advice, "indexes", "indexes are missing, so each batch of a purge reads a whole table:", indexes...)
	default:
		r.add(OK, "indexes", "a purge has all the indexes that it needs")
	}
}

// examineServerName checks the settings that a worker needs.
func (r *Report) examineServerName(ctx context.Context, db *postgres.DB, settings config.Config, addError func(string, error)) {
	if settings.ServerName == "" {
		r.add(Advice, "server name", "a worker needs it: set LETHE_SERVER_NAME")
	} else if ours, err := migrate.HasUsersOf(ctx, db, settings.ServerName); err != nil {
		addError("server name", err)
	} else if !ours {
		r.add(Mend, "server name", "no user in the database is on "+settings.ServerName+": correct LETHE_SERVER_NAME")
	} else {
		r.add(OK, "server name", "the users in the database are on "+settings.ServerName)
	}
	made, err := migrate.MadeBySynapse(ctx, db)
	if err != nil {
		addError("synapse", err)
	} else if made && settings.SynapseBeside == nil {
		r.add(Advice, "synapse", "Synapse created this database: stop Synapse, and set LETHE_SYNAPSE_BESIDE=false, before you start a worker")
	}
}

// examineRedis checks the Redis of the jobs and the Redis servers of the locks.
func (r *Report) examineRedis(ctx context.Context, settings config.Config) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	if settings.Redis.URL == "" {
		r.add(Advice, "redis", "api, worker and scheduler need it: set LETHE_REDIS_URL")
	} else {
		r.checkRedis("redis", []config.Secret{settings.Redis.URL}, func(clients []redis.UniversalClient) error {
			return redisdb.CheckPolicy(ctx, clients[0])
		})
	}
	if len(settings.Lock.RedisURLs) > 0 {
		r.checkRedis("locks", settings.Lock.RedisURLs, func(clients []redis.UniversalClient) error {
			return redisdb.CheckQuorum(ctx, clients)
		})
	}
}

// checkRedis adds the result of a check of Redis servers.
func (r *Report) checkRedis(about string, urls []config.Secret, check func([]redis.UniversalClient) error) {
	var clients []redis.UniversalClient
	for _, url := range urls {
		client, err := redisdb.OpenForLocks(string(url)) // this client does not retry
		if err != nil {
			r.add(Mend, about, err.Error())
			return
		}
		defer func() { _ = client.Close() }()
		clients = append(clients, client)
	}
	if err := check(clients); err != nil {
		r.add(Mend, about, err.Error())
		return
	}
	r.add(OK, about, "it answers, and does not evict keys")
}
