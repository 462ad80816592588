package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/config"
	"lethe/internal/doctor"
	"lethe/internal/matrix"
	"lethe/internal/observe"
	"lethe/internal/store/checkup"
	"lethe/internal/store/postgres"
)

var errUnhealthy = errors.New("Lethe cannot work until the problems marked MEND are solved")

// maxRoleName is the greatest length of a role's name, in bytes.
const maxRoleName = 63

// An examination is what the doctor is asked for.
type examination struct {
	deep                bool
	left, process, role string
}

func (a *app) doctor() *cobra.Command {
	var asked examination
	c := &cobra.Command{
		Use:   "doctor",
		Short: "check the servers, and say what to do",
		Long: `Checks the servers that the LETHE_ settings name: what keeps Lethe from working, or from
working fast, and what to do. The exit status is 1 if Lethe cannot work.`,
		Example: `  lethe doctor
  lethe doctor --for worker --role lethe_worker
  lethe doctor --left '!abc:example.org'`,
		Args: command.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return a.examine(c, asked) },
	}
	flags := c.Flags()
	flags.BoolVar(&asked.deep, "deep", false, "also compare each index that purges use with its table, which reads all of these")
	flags.StringVar(&asked.left, "left", "", "also scan all tables for rows that the deleted `room` has left, which may read all of them")
	flags.StringVar(&asked.process, "for", "", "check what this `process` alone needs: api, worker, scheduler or asynqmon; or vacuum, the role that vacuums after jobs")
	flags.StringVar(&asked.role, "role", "", "print the privileges that this `role` lacks, instead of the role of LETHE_DATABASE_URL")
	completes(c, "for", "api", "worker", "scheduler", "asynqmon", "vacuum")
	addOutput(c)
	return c
}

// examine checks the servers and prints the report.
func (a *app) examine(c *cobra.Command, asked examination) error {
	ctx, given := c.Context(), c.Flags().Changed
	examined := checkup.Role{Name: asked.role, Processes: doctor.Processes()}
	if given("for") {
		var err error
		if examined.Processes, err = doctor.ProcessesOf(asked.process); err != nil {
			return command.Usage("--for: %w", err)
		}
	}
	if given("role") && (asked.role == "" || len(asked.role) > maxRoleName || !postgres.Storable(asked.role)) {
		return command.Usage("--role must be the name of a role, with 1 to %d bytes", maxRoleName)
	}
	if given("left") && !matrix.ValidRoomID(asked.left) {
		return command.Usage("--left must be the id of a room, such as !abc:example.org")
	}
	settings, err := config.Load(a.environ, config.ForDatabase)
	if err != nil {
		return err
	}
	observe.SetRedisLogger(slog.New(slog.DiscardHandler)) // the report has the errors
	report := doctor.Examine(ctx, settings, examined)
	if asked.deep {
		report = append(report, doctor.ExamineDeep(ctx, settings)...)
	}
	if given("left") {
		report = append(report, doctor.ExamineLeft(ctx, settings, asked.left)...)
	}
	if err := print(c, newReportDocument(report), func(w io.Writer) error { return report.Print(w) }); err != nil {
		return err
	}
	if !report.Healthy() {
		return errUnhealthy
	}
	return nil
}

// A reportDocument is a report of the doctor as a document.
type reportDocument struct {
	Healthy  bool              `json:"healthy"`
	Findings []findingDocument `json:"findings"`
}

type findingDocument struct {
	Verdict string   `json:"verdict"`
	About   string   `json:"about"`
	Says    string   `json:"says"`
	Do      []string `json:"do"`
}

func newReportDocument(report doctor.Report) reportDocument {
	document := reportDocument{Healthy: report.Healthy(), Findings: []findingDocument{}}
	for _, f := range report {
		document.Findings = append(document.Findings, findingDocument{
			Verdict: strings.TrimSpace(fmt.Sprint(f.Verdict)), About: f.About, Says: f.Says, Do: append([]string{}, f.Do...),
		})
	}
	return document
}
