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
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

// examineTime bounds the questions to one server.
const examineTime = 30 * time.Second

// A Verdict is how bad a finding is.
type Verdict string

const (
	// OK is as it should be.
	OK Verdict = "ok"
	// Advice is not in the way of Lethe's work.
	Advice Verdict = "advice"
	// Mend is in the way.
	Mend Verdict = "MEND"
)

// A Finding is one thing that was looked at.
type Finding struct {
	Verdict Verdict

	// About is a word for what was looked at, Says what was found.
	About, Says string

	// Do is what to do, a statement or command each. Empty if there is nothing,
	// or if Says tells it.
	Do []string
}

// A Report is what was found, in the order in which it should be mended.
type Report []Finding

// Healthy reports whether Lethe can work.
func (r Report) Healthy() bool {
	return !slices.ContainsFunc(r, func(f Finding) bool { return f.Verdict == Mend })
}

// Print writes the report for people: a line for each finding, and below it what
// to do.
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

// Examine looks at what the settings name: the database, and Redis if they name
// one.
func Examine(ctx context.Context, settings config.Config) Report {
	var report Report
	report.examineDatabase(ctx, settings)
	report.examineRedis(ctx, settings)
	return report
}

func (r *Report) examineDatabase(ctx context.Context, settings config.Config) {
	ctx, cancel := context.WithTimeout(ctx, examineTime)
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

	purger := purge.New(db, purge.Options{})
	grants, err := purger.LackingPrivileges(ctx)
	switch {
	case err != nil:
		r.add(Mend, "privileges", err.Error())
	case len(grants) > 0:
		r.add(Mend, "privileges", "the role may not do all that Lethe does; as the owner of these, or a superuser:", grants...)
	default:
		r.add(OK, "privileges", "the role may do all that Lethe does")
	}
	// The answers to the other questions may need what the role lacks.
	fault := func(about string, err error) {
		var refused *pgconn.PgError
		const insufficientPrivilege = "42501"
		if errors.As(err, &refused) && refused.Code == insufficientPrivilege && len(grants) > 0 {
			r.add(Mend, about, "not looked at, for want of privileges")
			return
		}
		r.add(Mend, about, err.Error())
	}

	if err := migrate.CheckSchema(ctx, db); err != nil {
		fault("schema", err)
	} else {
		r.add(OK, "schema", "Lethe's tables and the homeserver's are those that this version knows")
	}
	catalog, err := purger.HistoryCatalog(ctx)
	if err == nil {
		_, err = purger.RoomCatalog(ctx)
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			r.add(Mend, "tables", strings.TrimSpace(line))
		}
	} else {
		r.add(OK, "tables", "a purge knows everything that it could touch")
		r.examineSpeed(ctx, purger, catalog)
	}
	r.examineServerName(ctx, db, settings, fault)
}

// examineSpeed looks at what makes purges fast.
func (r *Report) examineSpeed(ctx context.Context, purger *purge.Purger, catalog purge.Catalog) {
	grants, superuser, err := purger.LackingForSetWise(ctx, catalog)
	const gain = "references are checked row by row, and all at once would be much faster: "
	switch why := catalog.RowWise(); {
	case err != nil:
		r.add(Mend, "speed", err.Error())
	case why == "" && len(grants) > 0:
		r.add(Mend, "speed", "references are checked all at once, for which the role lacks:", grants...)
	case why == "":
		r.add(OK, "speed", "references are checked all at once")
	case superuser:
		r.add(Advice, "speed", gain+why+"; before PostgreSQL 15 only a superuser may")
	default:
		r.add(Advice, "speed", gain+why, grants...)
	}

	indexes, err := purger.LackingIndexes(ctx, catalog)
	switch {
	case err != nil:
		r.add(Mend, "indexes", err.Error())
	case len(indexes) > 0:
		r.add(Advice, "indexes", "without these each batch of a purge reads a whole table:", indexes...)
	default:
		r.add(OK, "indexes", "all that a purge relies on are there")
	}
}

// examineServerName looks at what a worker must be told.
func (r *Report) examineServerName(ctx context.Context, db *postgres.DB, settings config.Config, fault func(string, error)) {
	if settings.ServerName == "" {
		r.add(Advice, "server name", "a worker needs to know it: set LETHE_SERVER_NAME")
	} else if ours, err := migrate.HasUsersOf(ctx, db, settings.ServerName); err != nil {
		fault("server name", err)
	} else if !ours {
		r.add(Mend, "server name", "no user of the database is on "+settings.ServerName+": correct LETHE_SERVER_NAME")
	} else {
		r.add(OK, "server name", settings.ServerName+" is the database's")
	}
	made, err := migrate.MadeBySynapse(ctx, db)
	if err != nil {
		fault("synapse", err)
	} else if made && settings.SynapseBeside == nil {
		r.add(Advice, "synapse", "a worker needs to know whether one runs on this database: stop it, and set LETHE_SYNAPSE_BESIDE=false")
	}
}

func (r *Report) examineRedis(ctx context.Context, settings config.Config) {
	ctx, cancel := context.WithTimeout(ctx, examineTime)
	defer cancel()
	if settings.Redis.URL == "" {
		r.add(Advice, "redis", "api, worker and scheduler need one: set LETHE_REDIS_URL")
	} else {
		r.judgeRedis("redis", []config.Secret{settings.Redis.URL}, func(clients []redis.UniversalClient) error {
			return redisdb.CheckPolicy(ctx, clients[0])
		})
	}
	if len(settings.Lock.RedisURLs) > 0 {
		r.judgeRedis("locks", settings.Lock.RedisURLs, func(clients []redis.UniversalClient) error {
			return redisdb.CheckQuorum(ctx, clients)
		})
	}
}

func (r *Report) judgeRedis(about string, urls []config.Secret, check func([]redis.UniversalClient) error) {
	var clients []redis.UniversalClient
	for _, url := range urls {
		client, err := redisdb.OpenForLocks(string(url)) // it does not try again and again
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
	r.add(OK, about, "it answers, and keeps what it holds")
}
