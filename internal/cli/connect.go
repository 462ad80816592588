package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/config"
	"lethe/internal/operator/client"
	"lethe/internal/wire"
)

// A LocalAPI opens the API in the process, for someone with this name. The function that
// it returns closes it. It does not wait for any server but the database.
type LocalAPI func(ctx context.Context, settings config.Config, who string) (http.Handler, func(), error)

const (
	urlVariable       = "LETHE_API_URL"
	tokenVariable     = "LETHE_TOKEN"
	tokenFileVariable = tokenVariable + "_FILE"

	// fromSettings is the value of --database without a URL.
	fromSettings = "true"

	// maxTokenFile is the size of the largest file with a token, in bytes.
	maxTokenFile = 64 << 10
)

// addConnection adds the flags of a command, and of those below it, that ask the API.
func addConnection(c *cobra.Command) {
	flags := c.PersistentFlags()
	flags.Var(new(databaseURL), "database", "work on the database itself, LETHE_DATABASE_URL unless `[=URL]` is given, instead of asking LETHE_API_URL")
	flags.Lookup("database").NoOptDefVal = fromSettings
	addOutput(c)
}

// A databaseURL is the value of --database. It implements pflag.Value.
type databaseURL string

func (u *databaseURL) String() string { return string(*u) }

// Type is that of a flag without a value, which help shows as such.
func (u *databaseURL) Type() string { return "bool" }

func (u *databaseURL) Set(text string) error {
	*u = databaseURL(text) // connect refuses what is no URL, without repeating it
	return nil
}

// isDatabaseURL reports whether a word is the URL of a database.
func isDatabaseURL(word string) bool {
	return strings.HasPrefix(word, "postgres://") || strings.HasPrefix(word, "postgresql://")
}

// isConnection reports whether a word tells how to connect to a database, in whatever form.
// Words in other forms than [isDatabaseURL] are refused, but never repeated: they may have a
// password.
func isConnection(word string) bool {
	word = strings.ToLower(word)
	return isDatabaseURL(word) || strings.Contains(word, "://") || strings.Contains(word, "password=")
}

// An action is what a command does with the API.
type action func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error

// asks returns the RunE of a command that asks the API.
func (a *app) asks(do action) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		api, closeAPI, err := a.connect(c)
		if err != nil {
			return err
		}
		defer closeAPI()
		return explain(do(c.Context(), c, api, args))
	}
}

// connect returns the API, and a function that closes it.
func (a *app) connect(c *cobra.Command) (*client.Client, func(), error) {
	database := c.Flag("database")
	switch {
	case database.Changed:
		return a.connectDirectly(c, database.Value.String())
	case a.variable(urlVariable) != "":
		return a.connectByURL()
	case a.workedOnDatabase(c):
		return a.connectDirectly(c, fromSettings)
	}
	return nil, nil, command.Usage("set %s and %s, or use --database on a machine with Lethe's settings", urlVariable, tokenVariable)
}

// workedOnDatabase reports whether a command is one that has always worked on the
// database, and has the settings for it.
func (a *app) workedOnDatabase(c *cobra.Command) bool {
	return c.Parent() != nil && c.Parent().Name() == "hold" &&
		slices.ContainsFunc([]string{"LETHE_DATABASE_URL", "LETHE_DATABASE_URL_FILE", "LETHE_CONFIG"}, func(name string) bool { return a.variable(name) != "" })
}

// variable returns the value of a variable of the environment, "" if it is not set.
func (a *app) variable(name string) (value string) {
	for _, entry := range a.environ {
		if found, ok := strings.CutPrefix(entry, name+"="); ok {
			value = found // the last one wins, as in a shell
		}
	}
	return value
}

// connectByURL returns the API that the environment names.
func (a *app) connectByURL() (*client.Client, func(), error) {
	token := a.variable(tokenVariable)
	if path := a.variable(tokenFileVariable); path != "" {
		if token != "" {
			return nil, nil, command.Usage("%s and %s cannot both be set", tokenVariable, tokenFileVariable)
		}
		text, err := readFile(path, maxTokenFile)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", tokenFileVariable, err)
		}
		token = strings.TrimSpace(string(text))
	}
	api, err := client.New(client.Options{URL: a.variable(urlVariable), Token: token})
	if err != nil {
		return nil, nil, command.Usage("%s, %s: %w", urlVariable, tokenVariable, err)
	}
	return api, api.Close, nil
}

// connectDirectly returns the API in this process, on the database with the URL.
func (a *app) connectDirectly(c *cobra.Command, url string) (*client.Client, func(), error) {
	settings, err := a.databaseSettings(url)
	if err != nil {
		return nil, nil, err
	}
	who := userName()
	if by := c.Flags().Lookup("by"); by != nil && by.Changed {
		who = by.Value.String()
	}
	if who == "" {
		return nil, nil, command.Usage("this user has no name: name a person with --by")
	}
	handler, closeHandler, err := a.local(c.Context(), settings, who)
	if err != nil {
		return nil, nil, err
	}
	direct := client.NewDirect(handler)
	api, err := client.New(client.Options{URL: "http://localhost", Transport: direct})
	if err != nil {
		closeHandler()
		return nil, nil, err
	}
	return api, func() {
		direct.Wait()
		closeHandler()
	}, nil
}

// databaseSettings returns the settings for a database: that of the settings, or the one
// with the URL.
func (a *app) databaseSettings(url string) (config.Config, error) {
	environ := a.environ
	switch {
	case url == fromSettings:
	case !isDatabaseURL(url):
		return config.Config{}, command.Usage("--database: the URL must begin with postgres:// or postgresql://")
	default:
		environ = slices.DeleteFunc(slices.Clone(environ), func(entry string) bool { return strings.HasPrefix(entry, "LETHE_DATABASE_URL") })
		environ = append(environ, "LETHE_DATABASE_URL="+url)
	}
	return config.Load(environ, config.ForDatabase)
}

// explain returns an error for people, with the exit status of what the API has answered.
func explain(err error) error {
	var answer *wire.Error
	if !errors.As(err, &answer) {
		return err
	}
	status := command.Failed
	switch answer.Status {
	case http.StatusForbidden, http.StatusConflict, http.StatusPreconditionFailed:
		status = command.Refused
	case http.StatusBadRequest:
		if slices.Contains([]string{"M_INVALID_PARAM", "M_MISSING_PARAM", "M_BAD_JSON"}, answer.Code) {
			status = command.BadUsage
		}
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		status = command.TimedOut
	}
	text := answer.Text
	if answer.Status == http.StatusUnauthorized {
		text += " (the access token is in " + tokenVariable + ")"
	}
	return &command.StatusError{Status: status, Err: fmt.Errorf("%s (%d %s)", text, answer.Status, answer.Code)}
}

// userName returns the name of the user who runs the command, "" if it is not
// known.
func userName() string {
	if current, err := user.Current(); err == nil {
		return current.Username
	}
	return ""
}

// readFile reads a file, and fails if it is longer than a maximum.
func readFile(path string, maximum int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.Size() > maximum:
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maximum)
	}
	return os.ReadFile(path)
}
