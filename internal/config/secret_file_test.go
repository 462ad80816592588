package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// secretFile makes a file and returns its path.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestEverySecretMayBeInAFile(t *testing.T) {
	t.Parallel()
	const locks = "redis://a,rediss://:hunter2@b:1,redis://c/2"
	config, err := Load([]string{
		write(t, "database: {url: 'postgres://u:other@h/db'}"),
		"LETHE_DATABASE_URL_FILE=" + secretFile(t, databaseURL+"\n"),
		"LETHE_HOMESERVER_AS_TOKEN_FILE=" + secretFile(t, "hunter2\r\n"),
		"LETHE_LOCK_REDIS_URLS_FILE=" + secretFile(t, locks),
		"LETHE_MAS_SECRET_FILE=" + secretFile(t, "hunter2-too\n"),
		"LETHE_MAS_URL=http://mas",
		"LETHE_REDIS_URL_FILE=" + secretFile(t, redisURL),
		"LETHE_SERVER_NAME=example.org",
	}, ForAPI)
	require.NoError(t, err)
	require.Equal(t, Secret(databaseURL), config.Database.URL)
	require.Equal(t, Secret("hunter2"), config.Homeserver.ASToken)
	require.Equal(t, Secret("hunter2-too"), config.MAS.Secret)
	require.Equal(t, []Secret{"redis://a", "rediss://:hunter2@b:1", "redis://c/2"}, config.Lock.RedisURLs)
	require.Equal(t, Secret(redisURL), config.Redis.URL)

	// All that is a Secret, and nothing else, and no two settings share a variable.
	variables := map[string]bool{}
	secrets := 0
	for _, s := range settings(&config) {
		require.False(t, variables[variable(s.path)], s.path)
		variables[variable(s.path)] = true
		if s.isSecret {
			secrets++
			require.False(t, variables[variable(s.path)+secretSuffix], s.path)
			variables[variable(s.path)+secretSuffix] = true
		}
	}
	require.Equal(t, 7, secrets)
	_, err = Load([]string{"LETHE_SERVER_NAME_FILE=" + secretFile(t, "example.org")})
	require.Equal(t, []string{"LETHE_SERVER_NAME_FILE: no such setting"}, problems(t, err))
}

func TestSecretFilesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	const name = "LETHE_DATABASE_URL_FILE"
	for label, test := range map[string]struct{ path, want string }{
		"unset":          {"", "names no file: unset it to go without one"},
		"absent":         {"/nowhere/hunter2", "read the file that it names: no such file or directory"},
		"a secret":       {databaseURL, "read the file that it names: no such file or directory"},
		"a folder":       {t.TempDir(), "must name a file, not a folder, pipe or device"},
		"endless":        {"/dev/zero", "must name a file, not a folder, pipe or device"},
		"empty":          {secretFile(t, ""), "the file that it names is empty"},
		"an empty line":  {secretFile(t, "\n"), "the file that it names is empty"},
		"too large":      {secretFile(t, strings.Repeat("hunter2 ", 200_000)), "read the file that it names: the file is larger than 1 MiB"},
		"no text":        {secretFile(t, "postgres://u:hunter2\xff@h/db"), "the file that it names is no text"},
		"a zero byte":    {secretFile(t, "host=h password=hunter2\x00"), "the file that it names is no text"},
		"two lines":      {secretFile(t, databaseURL+"\nhunter2\n"), "must be a PostgreSQL URL, such as postgres://user:password@host:5432/database"},
		"no such secret": {secretFile(t, "hunter2"), "must be a PostgreSQL URL, such as postgres://user:password@host:5432/database"},
	} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			// It is not missing, too.
			_, err := Load([]string{name + "=" + test.path}, ForDatabase)
			require.Equal(t, []string{name + ": " + test.want}, problems(t, err))
		})
	}
	for _, own := range []string{"LETHE_DATABASE_URL=" + databaseURL, "LETHE_DATABASE_URL="} {
		_, err := Load([]string{own, name + "=" + secretFile(t, databaseURL)})
		require.Equal(t, []string{name + ": LETHE_DATABASE_URL is set too: only one of them may be"}, problems(t, err))
	}
}

func TestCertificateAndKeyGoTogether(t *testing.T) {
	t.Parallel()
	for _, section := range []string{"api", "asynqmon"} {
		cert, key := section+".tls_cert_file", section+".tls_key_file"
		_, err := Load([]string{variable(cert) + "=/c"})
		require.Equal(t, []string{key + ": must be set, here or as " + variable(key) + ", since " + cert + " is"}, problems(t, err))
		_, err = Load([]string{variable(key) + "=/k", variable(cert) + "="})
		require.Equal(t, []string{cert + ": must be set, here or as " + variable(cert) + ", since " + key + " is"}, problems(t, err))
	}
}
