package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"

	"lethe/internal/config"
	"lethe/internal/output"
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

// Processes returns the processes that need the database and Redis: a role that serves
// them all needs what Lethe needs.
func Processes() []schema.Process {
	return []schema.Process{schema.API, schema.Worker, schema.Scheduler}
}

// vacuums stands for the role that vacuums after jobs, which is no process.
const vacuums schema.Process = "vacuum"

// ProcessesOf returns the process of the name, for which a role is examined. The name vacuum
// stands for the role that vacuums after jobs. An error names all of them.
func ProcessesOf(name string) ([]schema.Process, error) {
	if name == string(vacuums) {
		return []schema.Process{vacuums}, nil
	}
	one, err := schema.ParseProcess(name)
	if err != nil {
		return nil, fmt.Errorf("%w, nor %s", err, vacuums)
	}
	return []schema.Process{one}, nil
}

// Examine checks the database and the Redis servers that the settings name, as far as
// the role's processes use them. Only the privileges are those of the role; everything
// else is checked as the role of the connection. It also checks where access tokens are
// checked.
func Examine(ctx context.Context, settings config.Config, role checkup.Role) Report {
	var report Report
	if slices.Equal(role.Processes, []schema.Process{vacuums}) {
		report.examineVacuumRole(ctx, settings, role.Name)
		return report
	}
	report.examineDatabase(ctx, settings, role)
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
		report.add(OK, "deep", fmt.Sprintf("all indexes that purges use match their tables: %d", checked))
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
func (r *Report) examineDatabase(ctx context.Context, settings config.Config, role checkup.Role) {
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

	lacking := r.examinePrivileges(ctx, db, settings, role)
	// The other checks may fail only because the role lacks privileges.
	addError := func(about string, err error) {
		if isDenied(err) && lacking && role.Name == "" {
			r.add(Mend, about, "not checked, because the role lacks privileges")
			return
		}
		r.add(Mend, about, err.Error())
	}
	serves := func(processes ...schema.Process) bool {
		return slices.ContainsFunc(role.Processes, func(p schema.Process) bool { return slices.Contains(processes, p) })
	}
	r.examineOtherRoles(ctx, db, role)
	if serves(schema.API, schema.Worker, schema.Scheduler) {
		if err := migrate.CheckSchema(ctx, db); err != nil {
			addError("schema", err)
		} else {
			r.add(OK, "schema", "this version of Lethe knows the tables of Lethe and of the homeserver")
			r.examineDeployment(ctx, db, addError)
			if serves(schema.Worker) {
				r.examineFederation(ctx, db, addError)
			}
		}
	}
	if serves(schema.Worker) {
		r.examineBeside(ctx, db, settings)
		r.examineBrake(ctx, db, settings, role)
		r.examineVersions(ctx, db, addError)
		if !lacking {
			r.examineStream(ctx, db, addError)
		}
	}
	if serves(schema.Worker) {
		r.examineWAL(ctx, db, settings, role)
	}
	if serves(schema.API, schema.Worker) {
		r.examineTables(ctx, db, settings, role)
	}
	if serves(schema.Worker) {
		r.examineServerName(ctx, db, settings, addError)
		if !lacking {
			r.examineVacuum(ctx, db, settings, role.Name, addError)
		}
	}
}

// examinePrivileges checks what the role may do, and returns whether it lacks
// anything.
func (r *Report) examinePrivileges(ctx context.Context, db *postgres.DB, settings config.Config, role checkup.Role) (lacking bool) {
	const about = "privileges"
	if settings.TokensAt() == config.AuthHomeserver && slices.Equal(role.Processes, []schema.Process{schema.Asynqmon}) {
		r.add(OK, about, "asynqmon needs no database, because the homeserver checks access tokens")
		return false
	}
	who, needed := "the role", "Lethe needs"
	if role.Name != "" {
		who += " " + shown(role.Name)
	}
	if len(role.Processes) == 1 {
		needed = string(role.Processes[0]) + " needs"
	}
	grants, err := checkup.LackingPrivileges(ctx, db, role, settings.Tables)
	switch {
	case errors.Is(err, checkup.ErrNoRole):
		r.add(Mend, about, "the database has no role "+shown(role.Name)+"; create it as a superuser:",
			"CREATE ROLE "+pgx.Identifier{role.Name}.Sanitize()+" LOGIN PASSWORD '…';")
		return true
	case err != nil:
		r.add(Mend, about, err.Error())
	case len(grants) > 0:
		r.add(Mend, about, who+" lacks privileges that "+needed+"; run as the owner of the tables, or as a superuser:", grants...)
	default:
		r.add(OK, about, who+" has all privileges that "+needed)
	}
	if len(role.Processes) == 1 {
		r.examineExcess(ctx, db, role, who)
	}
	return len(grants) > 0
}

// examineExcess advises against what the role of one process may do needlessly.
func (r *Report) examineExcess(ctx context.Context, db *postgres.DB, role checkup.Role, who string) {
	excess, err := checkup.Excess(ctx, db, role)
	if err != nil {
		r.add(Mend, "excess", err.Error())
	}
	for _, e := range excess {
		r.add(Advice, "excess", fmt.Sprintf("%s %s; let %s connect as a role of its own, see docs/roles.md", who, e, role.Processes[0]))
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
	return fmt.Sprintf("Synapse's schema has the version %d, the compat_version %d and %s in applied_schema_deltas",
		v.Version, v.Compat, output.Counted(v.Deltas, "change"))
}

// examineTables checks the tables that the role's processes use.
func (r *Report) examineTables(ctx context.Context, db *postgres.DB, settings config.Config, role checkup.Role) {
	purger := purge.New(db, purge.Options{Compat: settings.SchemaCompat, Tables: settings.Tables})
	var problems []string
	add := func(problem string) {
		if !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	var catalog purge.Catalog
	works := slices.Contains(role.Processes, schema.Worker)
	if works {
		var history error
		catalog, history = purger.HistoryCatalog(ctx)
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
	}
	// What purges, deletes and shutdowns use was compared above.
	var reads schema.Use
	for _, process := range role.Processes {
		reads |= process.Uses() &^ (schema.UsePurge | schema.UseDelete | schema.UseShutdown)
	}
	differences, err := census.Differences(ctx, db, reads, settings.Tables)
	if err != nil {
		add(err.Error())
	}
	for _, difference := range differences {
		add(difference)
	}
	for _, problem := range problems {
		r.add(Mend, "tables", problem)
	}
	if len(problems) == 0 {
		r.add(OK, "tables", "Lethe knows everything that it uses and all that it could harm")
		if works {
			r.examineSpeed(ctx, db, catalog, role)
		}
	}
}

// examineStream compares the sequence of events with the table. After a restore without it,
// Synapse gives new events numbers that others have already.
func (r *Report) examineStream(ctx context.Context, db *postgres.DB, addError func(string, error)) {
	const about = "stream"
	last, highest, known, err := checkup.EventStream(ctx, db)
	switch {
	case err != nil:
		addError(about, err)
	case known && last < highest:
		r.add(Mend, about, fmt.Sprintf("events_stream_seq is at %d, but events have numbers up to %d: stop Synapse and Lethe, and set it:", last, highest),
			`SELECT setval('events_stream_seq', (SELECT max(stream_ordering) FROM events));`)
	case known:
		r.add(OK, about, "events_stream_seq is at or above the numbers of all events")
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
		r.add(Advice, "federation", fmt.Sprintf("%s %s until the homeserver has told other servers that users have left "+
			"(federation_stream_position is %d and must reach %d): run the homeserver until then; if it will never run again, set force_purge:",
			output.Counted(deletes, "delete"), output.Agree(deletes, "waits", "wait"), position, place),
			`UPDATE lethe.jobs SET parameters = parameters || '{"force_purge": true}' WHERE state = 'queued' AND checkpoint ? 'leaves_at';`)
	}
}

// examineSpeed checks what makes purges fast.
func (r *Report) examineSpeed(ctx context.Context, db *postgres.DB, catalog purge.Catalog, role checkup.Role) {
	setWise, err := checkup.ForSetWise(ctx, db, role, catalog)
	why := catalog.RowWise()
	if role.Name != "" && why == "" && !setWise.Allowed { // the role of the connection may set it
		why = "the role " + shown(role.Name) + " may not set session_replication_role"
	}
	const slow = "references are checked row by row, which is much slower than checking them all at once: "
	switch {
	case err != nil:
		r.add(Mend, "speed", err.Error())
	case why == "" && len(setWise.Grants) > 0:
		r.add(Mend, "speed", "references are checked all at once, but the role lacks privileges for that:", setWise.Grants...)
	case why == "":
		r.add(OK, "speed", "references are checked all at once")
	case !setWise.Allowed && setWise.Superuser:
		r.add(Advice, "speed", slow+why+"; before PostgreSQL 15 only a superuser can check them all at once")
	default:
		r.add(Advice, "speed", slow+why, setWise.Grants...)
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
