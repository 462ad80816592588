package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAuthByHomeserverNeedsOne(t *testing.T) {
	t.Parallel()
	_, err := Load([]string{"LETHE_AUTH=homeserver", "LETHE_HOMESERVER_URL="})
	require.Equal(t, []string{"homeserver.url: must be set, here or as LETHE_HOMESERVER_URL, since auth is homeserver"}, problems(t, err))
	_, err = Load([]string{"LETHE_AUTH=homeserver", "LETHE_HOMESERVER_URL=x"})
	require.Len(t, problems(t, err), 1)
	_, err = Load([]string{"LETHE_AUTH=homeserver", "LETHE_HOMESERVER_URL=http://h"})
	require.NoError(t, err)
	_, err = Load([]string{"LETHE_AUTH=database"})
	require.NoError(t, err)
}

// masYAML is a Synapse that delegates its accounts.
const masYAML = "server_name: example.org\nmatrix_authentication_service: {enabled: true, endpoint: 'https://mas.example.org/auth/', secret: hunter2-secret}\n"

func TestHomeserverFileHasMAS(t *testing.T) {
	t.Parallel()
	of := MAS{URL: "https://mas.example.org/auth/", Secret: "hunter2-secret"}
	atDefault := MAS{URL: "http://localhost:8080/", Secret: "hunter2-secret"}
	for name, test := range map[string]struct {
		yaml      string
		want      MAS
		delegates bool
	}{
		"enabled":      {masYAML, of, true},
		"YAML 1.1":     {strings.Replace(masYAML, "true", "On", 1), of, true},
		"disabled":     {strings.Replace(masYAML, "true", "false", 1), MAS{}, false},
		"not enabled":  {strings.Replace(masYAML, "enabled: true, ", "", 1), MAS{}, false},
		"enabled null": {strings.Replace(masYAML, "true", "", 1), MAS{}, false},
		"section null": {"matrix_authentication_service:\n", MAS{}, false},
		"no endpoint":  {"matrix_authentication_service: {enabled: true, secret: hunter2-secret}\n", atDefault, true},
		"null":         {"matrix_authentication_service: {enabled: true, endpoint: ~, secret: hunter2-secret, secret_path: }\n", atDefault, true},
		"a file":       {"matrix_authentication_service: {enabled: true, secret_path: " + secretFile(t, "  hunter2-secret \n\n") + "}\n", atDefault, true},
		"no secret":    {"matrix_authentication_service: {enabled: true}\n", MAS{URL: atDefault.URL}, true},
		"no such file": {"matrix_authentication_service: {enabled: true, secret_path: /nowhere/hunter2}\n", MAS{URL: atDefault.URL}, true},
		"older":        {"experimental_features: {msc3861: {enabled: true, issuer: https://mas.example.org, client_secret: hunter2, admin_token: hunter2}}\n", MAS{}, true},
		"older, off":   {"experimental_features: {msc3861: {enabled: false}}\n", MAS{}, false},
		"other":        {"experimental_features: {msc3861: true, msc1: {enabled: true}}\n", MAS{}, false},
		"odd":          {"experimental_features: [msc3861]\n", MAS{}, false},
		"newer wins":   {"experimental_features: {msc3861: {enabled: false}}\n" + masYAML, of, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, err := Load([]string{"LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, test.yaml)})
			require.NoError(t, err)
			require.Equal(t, test.want, config.MAS)
			require.Equal(t, test.delegates, config.Homeserver.Delegates)
			require.NotContains(t, fmt.Sprintf("%+v", config), "hunter2")
		})
	}

	// Every other source overrides the file.
	path := homeserverYAML(t, masYAML)
	config, err := Load([]string{
		write(t, "mas: {url: 'http://a'}\n"), "LETHE_MAS_SECRET=hunter2-other", "LETHE_HOMESERVER_CONFIG_FILE=" + path,
	})
	require.NoError(t, err)
	require.Equal(t, MAS{URL: "http://a", Secret: "hunter2-other"}, config.MAS)
}

func TestHomeserverFilesWhoseMASCannotBeUsed(t *testing.T) {
	t.Parallel()
	const at = "homeserver.yaml:1: matrix_authentication_service"
	for name, test := range map[string]struct {
		section string
		want    []string
	}{
		"text":          {"hunter2", []string{at + ": must be a mapping: indented lines of key: value"}},
		"list":          {"[hunter2]", []string{at + ": must be a mapping: indented lines of key: value"}},
		"enabled text":  {"{enabled: hunter2}", []string{at + ".enabled: must be true or false"}},
		"enabled YAML":  {"{enabled: 'yes'}", []string{at + ".enabled: must be true or false"}},
		"enabled list":  {"{enabled: [true]}", []string{at + ".enabled: must be one value, not a list or a mapping"}},
		"endpoint":      {"{enabled: true, endpoint: 'http://u:hunter2@h', secret: a}", []string{at + ".endpoint: must be the URL of Matrix Authentication Service, such as http://127.0.0.1:8080"}},
		"endpoint list": {"{enabled: true, endpoint: [hunter2], secret: a}", []string{at + ".endpoint: must be one value, not a list or a mapping"}},
		"secret":        {"{enabled: true, secret: 'hunter2 b'}", []string{at + ".secret: must be letters, digits and signs, with no space"}},
		"secret map":    {"{enabled: true, secret: {hunter2: a}}", []string{at + ".secret: must be one value, not a list or a mapping"}},
		"both":          {"{enabled: true, secret: hunter2, secret_path: /hunter2}", []string{at + ".secret_path: secret is set too: only one of them may be"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load([]string{"LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, "matrix_authentication_service: "+test.section+"\n")})
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			require.Equal(t, test.want, problems(t, err))
		})
	}
}

func TestTokensAt(t *testing.T) {
	t.Parallel()
	mas := "LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, masYAML)
	older := "LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, "experimental_features: {msc3861: {enabled: true}}\n")
	plain := "LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, "server_name: example.org\n")
	const (
		homeserver = "LETHE_HOMESERVER_URL=http://h"
		database   = "LETHE_AUTH=database"
		url        = "LETHE_MAS_URL=http://mas"
		secret     = "LETHE_MAS_SECRET=hunter2"
		noURL      = "mas.url: must be set, here or as LETHE_MAS_URL, since "
		noSecret   = "mas.secret: must be set, here or as LETHE_MAS_SECRET, since access tokens are checked at mas.url"
		notThere   = ": access tokens are not in the database then; leave auth out, or set it to mas or homeserver"
	)
	need := []string{"LETHE_DATABASE_URL=" + databaseURL, "LETHE_REDIS_URL=" + redisURL, "LETHE_SERVER_NAME=example.org"}
	for name, test := range map[string]struct {
		environ []string
		want    string
		refused []string
	}{
		"nothing":                {nil, AuthDatabase, nil},
		"auto":                   {[]string{"LETHE_AUTH=auto"}, AuthDatabase, nil},
		"plain":                  {[]string{plain}, AuthDatabase, nil},
		"homeserver.url":         {[]string{homeserver, plain}, AuthAuto, nil},
		"MAS":                    {[]string{url, secret}, AuthMAS, nil},
		"MAS, homeserver":        {[]string{url, secret, homeserver}, AuthMAS, nil},
		"MAS, file":              {[]string{mas}, AuthMAS, nil},
		"MAS, all":               {[]string{mas, homeserver, "LETHE_AUTH=mas"}, AuthMAS, nil},
		"older":                  {[]string{older, homeserver}, AuthHomeserver, nil},
		"older, MAS":             {[]string{older, homeserver, url, secret}, AuthMAS, nil},
		"database":               {[]string{database, homeserver, plain}, AuthDatabase, nil},
		"homeserver":             {[]string{"LETHE_AUTH=homeserver", homeserver, mas}, AuthHomeserver, nil},
		"older alone":            {[]string{older}, "", []string{noURL + "homeserver.config_file delegates the accounts, and homeserver.url is not set either"}},
		"database, MAS":          {[]string{database, url, secret}, "", []string{"auth: must not be database, since mas.url is set, here or in homeserver.config_file" + notThere}},
		"database, MAS, file":    {[]string{database, mas}, "", []string{"auth: must not be database, since mas.url is set, here or in homeserver.config_file" + notThere}},
		"database, MAS, off":     {[]string{database, mas, "LETHE_MAS_URL="}, "", []string{"auth: must not be database, since homeserver.config_file delegates the accounts" + notThere}},
		"database, older":        {[]string{database, older, homeserver}, "", []string{"auth: must not be database, since homeserver.config_file delegates the accounts" + notThere}},
		"mas without":            {[]string{"LETHE_AUTH=mas", homeserver}, "", []string{noURL + "auth is mas", noSecret}},
		"URL alone":              {[]string{url}, "", []string{noSecret}},
		"secret alone":           {[]string{secret}, "", []string{noURL + "mas.secret is"}},
		"secret and homeserver":  {[]string{secret, homeserver}, "", []string{noURL + "mas.secret is"}},
		"homeserver without URL": {[]string{"LETHE_AUTH=homeserver", mas}, "", []string{"homeserver.url: must be set, here or as LETHE_HOMESERVER_URL, since auth is homeserver"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, purpose := range []Purpose{ForAPI, ForAsynqmon} {
				config, err := Load(append(need, test.environ...), purpose)
				if test.refused != nil {
					require.Equal(t, test.refused, problems(t, err))
					continue
				}
				require.NoError(t, err)
				require.Equal(t, test.want, config.TokensAt())
			}
		})
	}
}

// A process that checks no token needs no account.
func TestOnlySomeCheckTokens(t *testing.T) {
	t.Parallel()
	unreadable := "LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, "server_name: example.org\nmatrix_authentication_service: {enabled: true, secret_path: /nowhere/hunter2}\n")
	older := "LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, "server_name: example.org\nexperimental_features: {msc3861: {enabled: true}}\n")
	need := []string{"LETHE_DATABASE_URL=" + databaseURL, "LETHE_REDIS_URL=" + redisURL}
	for _, file := range []string{unreadable, older} {
		for _, purpose := range []Purpose{ForDatabase, ForScheduler, ForWorker} {
			_, err := Load(append(need, file), purpose)
			require.NoError(t, err)
		}
		_, err := Load(append(need, file), ForWorker, ForAPI)
		require.Len(t, problems(t, err), 1)
	}
	_, err := Load(append(need, unreadable), ForAPI)
	require.Equal(t, []string{"homeserver.yaml:2: matrix_authentication_service.secret_path: read the file that it names: no such file or directory"}, problems(t, err))
	config, err := Load(append(need, unreadable, "LETHE_MAS_SECRET=hunter2"), ForAPI)
	require.NoError(t, err)
	require.Equal(t, Secret("hunter2"), config.MAS.Secret)

	// The service does not say on which server its users are.
	mas := []string{"LETHE_MAS_URL=http://mas", "LETHE_MAS_SECRET=hunter2"}
	_, err = Load(append(need, mas...), ForAsynqmon)
	require.Equal(t, []string{"server_name: must be set, here or as LETHE_SERVER_NAME, since access tokens are checked at mas.url"}, problems(t, err))
	_, err = Load(append(need, mas...), ForAPI)
	require.Equal(t, []string{"server_name: must be set, here or as LETHE_SERVER_NAME"}, problems(t, err))
	_, err = Load(need, ForAsynqmon)
	require.NoError(t, err)

	// A file that cannot be read may have the settings.
	_, err = Load(append(need, "LETHE_AUTH=mas", "LETHE_HOMESERVER_CONFIG_FILE=/nowhere/homeserver.yaml"), ForAPI)
	require.Len(t, problems(t, err), 1)
}
