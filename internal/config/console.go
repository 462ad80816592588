package config

import (
	"errors"
	"time"

	"lethe/internal/matrix"
)

const consoleDoc = `The console is web pages for server admins, which the api serves below /_lethe/console/. docs/console.md
	describes it.`

func consoleSettings(c *Console) []setting {
	return []setting{
		row("console.enabled", "false", boolean(&c.Enabled),
			`Whether the api serves the console. lethe dev serves it unless this is set.`),
		row("console.readers", "", userIDs(&c.Readers).like("['@support:example.org']"),
			`The ids of the users who may look at the console and change nothing. They need not be server admins, and a
			server admin in this list changes nothing either. In a variable, separate the ids with commas.`),
		row("console.session_time", "8h", duration(&c.SessionTime, time.Minute, 7*24*time.Hour),
			`How long a session in the console lasts. It ends before that when the user signs out, or when the access
			token with which it began is refused.`),
	}
}

// userIDs is a list of ids of users.
func userIDs(field *[]string) value {
	return listOf(field, "a list of user ids, such as @support:example.org", func(list []string, item string) ([]string, error) {
		if !matrix.ValidUserID(item) {
			return nil, errors.New("must be the id of a user, such as @support:example.org")
		}
		return append(list, item), nil
	})
}
