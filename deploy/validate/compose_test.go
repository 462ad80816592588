package validate

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
)

// image matches an image's name with a tag and without a registry's host.
var image = regexp.MustCompile(`^[a-z0-9-]+(/[a-z0-9-]+)?:([a-zA-Z0-9._-]+)$`)

func requireShortImage(t *testing.T, name string) {
	t.Helper()
	match := image.FindStringSubmatch(name)
	require.NotNil(t, match, "%q has no tag, or has a host", name)
	require.NotEqual(t, "latest", match[2], name)
}

// compositions are the sets of files for the purposes in docs/compose.md, each with the
// profiles that are needed to have all services.
var compositions = map[string]struct{ files, profiles []string }{
	"all in one": {[]string{"docker-compose.yml"}, []string{"demo"}},
	"try":        {[]string{"deploy/compose/try.yml"}, nil},
	"beside":     {[]string{"deploy/compose/beside.yml"}, nil},
	"beside, with all that is added": {[]string{
		"deploy/compose/beside.yml", "deploy/compose/network.yml", "deploy/compose/synapse-redis.yml", "deploy/compose/signing-key.yml",
	}, nil},
}

// composed reads docker-compose.yml as docker compose does, which refuses unknown fields.
func composed(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	return composedOf(t, []string{"docker-compose.yml"}, profiles)
}

// composedOf reads files as docker compose does with -f. The folder of the first file is that
// of relative paths.
func composedOf(t *testing.T, files, profiles []string) *types.Project {
	t.Helper()
	folder, err := filepath.Abs(root)
	require.NoError(t, err)
	details := types.ConfigDetails{
		WorkingDir:  filepath.Join(folder, filepath.Dir(files[0])),
		Environment: types.Mapping{"SYNAPSE_NETWORK": "matrix_default"},
	}
	for _, file := range files {
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: filepath.Join(folder, file)})
	}
	project, err := loader.LoadWithContext(t.Context(), details, loader.WithProfiles(profiles))
	require.NoError(t, err)
	return project
}

// eachComposition runs a test with each of the compositions.
func eachComposition(t *testing.T, test func(t *testing.T, project *types.Project)) {
	t.Helper()
	for name, c := range compositions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, composedOf(t, c.files, c.profiles))
		})
	}
}

// composeSecrets runs the script that creates the secrets, and returns them by name.
func composeSecrets(t *testing.T, folder string) map[string]string {
	t.Helper()
	said, err := exec.CommandContext(t.Context(), filepath.Join(root, "scripts/compose-secrets"), folder).CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Empty(t, said)
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	secrets := map[string]string{}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		require.NoError(t, err)
		secrets[entry.Name()] = string(text)
	}
	return secrets
}

// once lists the services that exit.
var once = []string{"demo", "migrate"}

func TestComposeServices(t *testing.T) {
	t.Parallel()
	all := []string{"api", "asynqmon", "grafana", "migrate", "postgres", "prometheus", "redis", "scheduler", "worker"}
	require.ElementsMatch(t, all, composed(t).ServiceNames())
	project := composed(t, "demo")
	require.ElementsMatch(t, append(all, "demo"), project.ServiceNames())
	for _, name := range []string{"api", "worker", "scheduler"} {
		require.Equal(t, 2, *project.Services[name].Deploy.Replicas, name)
	}
	for name, want := range map[string][]string{
		"try":                            {"api", "asynqmon", "demo", "migrate", "postgres", "redis", "scheduler", "worker"},
		"beside":                         {"api", "asynqmon", "migrate", "redis", "scheduler", "worker"},
		"beside, with all that is added": {"api", "asynqmon", "migrate", "redis", "scheduler", "worker"},
	} {
		require.ElementsMatch(t, want, composedOf(t, compositions[name].files, nil).ServiceNames(), name)
	}
	eachComposition(t, func(t *testing.T, project *types.Project) {
		redis := strings.Join(project.Services["redis"].Command, " ")
		require.Contains(t, redis, "--appendonly yes")
		require.Contains(t, redis, "--maxmemory-policy noeviction")
	})
}

// TestComposeFilesSayWhatTheyAreFor tests that each file begins with its purpose, and that
// docs/compose.md names it.
func TestComposeFilesSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs/compose.md"))
	require.NoError(t, err)
	files := map[string]string{
		"docker-compose.yml": "# All in one: ", "deploy/compose/try.yml": "# For trying: ", "deploy/compose/beside.yml": "# Beside a PostgreSQL that runs already",
		"deploy/compose/network.yml": "# With beside.yml, ", "deploy/compose/synapse-redis.yml": "# With beside.yml, ", "deploy/compose/signing-key.yml": "# With beside.yml, ",
	}
	there, err := filepath.Glob(filepath.Join(root, "deploy/compose/*.yml"))
	require.NoError(t, err)
	require.Len(t, files, len(there)+1)
	for file, beginning := range files {
		text, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(text), beginning), file)
		require.Contains(t, string(page), file)
	}
}

func TestComposeContainersAreHardened(t *testing.T) {
	t.Parallel()
	eachComposition(t, requireHardened)
}

func requireHardened(t *testing.T, project *types.Project) {
	t.Helper()
	for name, service := range project.Services {
		requireShortImage(t, service.Image)
		require.Positive(t, service.MemLimit, name)
		require.Regexp(t, `^[1-9][0-9]*:[0-9]+$`, service.User, name)
		require.True(t, service.ReadOnly, name)
		require.False(t, service.Privileged, name)
		require.Equal(t, []string{"ALL"}, service.CapDrop, name)
		require.Empty(t, service.CapAdd, name)
		require.Contains(t, service.SecurityOpt, "no-new-privileges:true", name)
		require.NotNil(t, service.Logging, name)
		for _, port := range service.Ports {
			require.Equal(t, "127.0.0.1", port.HostIP, name)
		}
		for _, volume := range service.Volumes {
			if volume.Type == types.VolumeTypeBind {
				require.True(t, volume.ReadOnly, "%s: %s", name, volume.Target)
			}
		}
	}
}

func TestComposeMountsExist(t *testing.T) {
	t.Parallel()
	eachComposition(t, func(t *testing.T, project *types.Project) {
		for name, service := range project.Services {
			for _, volume := range service.Volumes {
				if volume.Type == types.VolumeTypeBind {
					require.DirExists(t, volume.Source, name)
				} else {
					require.Contains(t, project.Volumes, volume.Source, name)
				}
			}
		}
	})
	project := composed(t, "demo")
	// A provisioning file tells Grafana where the dashboards are.
	provisioning, err := os.ReadFile(filepath.Join(root, "deploy/grafana/provisioning/dashboards/lethe.yml"))
	require.NoError(t, err)
	path := regexp.MustCompile(`(?m)^ *path: (\S+)$`).FindSubmatch(provisioning)
	require.NotNil(t, path)
	require.True(t, slices.ContainsFunc(project.Services["grafana"].Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Target == string(path[1]) && strings.HasSuffix(v.Source, "/deploy/grafana/dashboards")
	}), "no dashboards at %s", path[1])
}

func TestComposeWaitsForHealthyServices(t *testing.T) {
	t.Parallel()
	eachComposition(t, requireOrder)
}

func requireOrder(t *testing.T, project *types.Project) {
	t.Helper()
	optional := len(project.Services["demo"].Profiles) > 0
	for name, service := range project.Services {
		if slices.Contains(once, name) {
			require.Nil(t, service.HealthCheck, name)
			require.NotEqual(t, types.RestartPolicyUnlessStopped, service.Restart, name)
		} else {
			require.NotNil(t, service.HealthCheck, name)
			require.NotEmpty(t, service.HealthCheck.Test, name)
			require.Less(t, time.Duration(*service.HealthCheck.Timeout), time.Duration(*service.HealthCheck.Interval), name)
			require.Equal(t, types.RestartPolicyUnlessStopped, service.Restart, name)
		}
		for other, dependency := range service.DependsOn {
			want := types.ServiceConditionHealthy
			if slices.Contains(once, other) {
				want = types.ServiceConditionCompletedSuccessfully
			}
			require.Equal(t, want, dependency.Condition, "%s waits for %s", name, other)
			require.Equal(t, other != "demo" || !optional, dependency.Required, "%s waits for %s", name, other)
		}
		for network := range service.Networks {
			require.Contains(t, project.Networks, network)
		}
	}
	for _, name := range []string{"api", "asynqmon", "scheduler", "worker"} {
		require.Contains(t, project.Services[name].DependsOn, "migrate", name)
		require.Contains(t, project.Services[name].DependsOn, "redis", name)
	}
	for _, name := range []string{"postgres", "redis"} {
		if _, there := project.Services[name]; !there {
			require.Equal(t, "postgres", name)
			continue
		}
		require.Equal(t, []string{"data"}, slices.Collect(maps.Keys(project.Services[name].Networks)), name)
		require.Empty(t, project.Services[name].Ports, name)
	}
	require.True(t, bool(project.Networks["data"].Internal))
}

func TestComposeSecrets(t *testing.T) {
	t.Parallel()
	project := composed(t, "demo")
	folder := filepath.Join(t.TempDir(), "secrets")
	secrets := composeSecrets(t, folder)
	require.Equal(t, secrets, composeSecrets(t, folder), "a second call must not change existing secrets")
	require.NotEqual(t, secrets["grafana_password"], composeSecrets(t, filepath.Join(t.TempDir(), "others"))["grafana_password"])
	info, err := os.Stat(folder)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	kept, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	require.NoError(t, err)
	require.Contains(t, string(kept), "\n/deploy/compose/secrets/\n")
	top, err := filepath.Abs(root)
	require.NoError(t, err)
	eachComposition(t, func(t *testing.T, project *types.Project) {
		for name, secret := range project.Secrets {
			require.Equal(t, filepath.Join(top, "deploy/compose/secrets", name), secret.File)
		}
		requireSecretsFromFiles(t, project)
	})
	for name := range project.Secrets {
		require.Contains(t, secrets, name)
		info, err := os.Stat(filepath.Join(folder, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o644), info.Mode().Perm(), "the user of a container must be able to read it")
	}
	require.Len(t, secrets, len(project.Secrets))
}

// requireSecretsFromFiles checks that what a service is told about a secret is its file.
func requireSecretsFromFiles(t *testing.T, project *types.Project) {
	t.Helper()
	file := regexp.MustCompile(`/run/secrets/([a-z_.]+)`)
	for name, service := range project.Services {
		var mounted []string
		for _, secret := range service.Secrets {
			require.Contains(t, project.Secrets, secret.Source, name)
			mounted = append(mounted, secret.Source)
		}
		words := slices.Clone(service.Command)
		if service.HealthCheck != nil {
			words = append(words, service.HealthCheck.Test...)
		}
		for variable, value := range service.Environment {
			words = append(words, *value)
			if regexp.MustCompile(`PASSWORD|TOKEN|_URL|SECRET`).MatchString(variable) && variable != "LETHE_HOMESERVER_URL" {
				require.Regexp(t, file, *value, "%s: %s", name, variable)
			}
		}
		for _, match := range file.FindAllStringSubmatch(strings.Join(words, " "), -1) {
			require.Contains(t, mounted, match[1], name)
		}
	}
}

// TestComposeServicesHaveWhatTheyNeed tests that no service has a secret of another's, and
// that Lethe's role is no superuser.
func TestComposeServicesHaveWhatTheyNeed(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"api": {"database_url", "redis_url"}, "worker": {"database_url", "redis_url"}, "scheduler": {"database_url", "redis_url"},
		"migrate": {"database_url", "redis_url"}, "demo": {"database_url"}, "asynqmon": {"redis_url"},
		"postgres": {"postgres_password", "lethe_password"}, "redis": {"redis.conf"}, "grafana": {"grafana_password"}, "prometheus": nil,
	}
	project := composed(t, "demo")
	requireSecrets(t, project, want)
	requireSecrets(t, composedOf(t, compositions["try"].files, nil), want)
	want["migrate"] = append(want["migrate"], "as_token")
	want["worker"] = append(want["worker"], "as_token")
	requireSecrets(t, composedOf(t, compositions["beside"].files, nil), want)
	want["migrate"] = append(want["migrate"], "synapse_redis_url")
	want["worker"] = append(want["worker"], "synapse_redis_url", "signing_key")
	requireSecrets(t, composedOf(t, compositions["beside, with all that is added"].files, nil), want)
	secrets := composeSecrets(t, t.TempDir())
	u, err := url.Parse(strings.TrimSpace(secrets["database_url"]))
	require.NoError(t, err)
	require.NotEqual(t, *project.Services["postgres"].Environment["POSTGRES_USER"], u.User.Username())
	password, _ := u.User.Password()
	require.Equal(t, strings.TrimSpace(secrets["lethe_password"]), password)
	require.NotEqual(t, strings.TrimSpace(secrets["postgres_password"]), password)
	script, err := os.ReadFile(filepath.Join(root, "deploy/compose/postgres/lethe.sh"))
	require.NoError(t, err)
	require.Contains(t, string(script), "CREATE ROLE "+u.User.Username()+" LOGIN NOSUPERUSER ")
}

// requireSecrets checks that each service has just the secrets that are wanted.
func requireSecrets(t *testing.T, project *types.Project, want map[string][]string) {
	t.Helper()
	for name, service := range project.Services {
		var mounted []string
		for _, secret := range service.Secrets {
			mounted = append(mounted, secret.Source)
		}
		require.Contains(t, want, name)
		require.ElementsMatch(t, want[name], mounted, name)
	}
}

func TestComposeSettingsAreValid(t *testing.T) {
	t.Parallel()
	eachComposition(t, requireValidSettings)
}

func requireValidSettings(t *testing.T, project *types.Project) {
	t.Helper()
	files := map[string]string{
		"/run/secrets/as_token": "a_token\n", "/run/secrets/synapse_redis_url": "redis://redis.example\n", "/run/secrets/signing_key": signingKey,
	}
	for name, text := range composeSecrets(t, t.TempDir()) {
		files["/run/secrets/"+name] = text
	}
	for name, service := range project.Services {
		if service.Build == nil {
			continue
		}
		require.FileExists(t, filepath.Join(service.Build.Context, service.Build.Dockerfile))
		environment := map[string]string{}
		for variable, value := range service.Environment {
			environment[variable] = *value
		}
		if token := "LETHE_HOMESERVER_AS_TOKEN_FILE"; environment[token] != "" {
			environment["LETHE_HOMESERVER_URL"] = "http://host.docker.internal:8008" // in lethe.env
		}
		settings, err := load(t, service.Command[0], environment, files)
		require.NoError(t, err, name)

		grace := apiDrain
		if name == "worker" {
			grace = settings.Worker.DrainTimeout + bookkeeping
		}
		listen := map[string]string{
			"api": settings.API.Listen, "worker": settings.Worker.Listen, "scheduler": settings.Scheduler.Listen,
			"asynqmon": environment["LETHE_ASYNQMON_LISTEN"],
		}[name]
		if slices.Contains(once, name) {
			continue
		}
		require.Greater(t, time.Duration(*service.StopGracePeriod), grace, name)
		require.Equal(t, []string{"CMD", "/lethe", "probe"}, []string(service.HealthCheck.Test[:3]), name)
		probed, err := url.Parse(service.HealthCheck.Test[3])
		require.NoError(t, err)
		require.Equal(t, "/readyz", probed.Path, name)
		require.Equal(t, listen, ":"+probed.Port(), name)
		for _, port := range service.Ports {
			require.Equal(t, probed.Port(), fmt.Sprint(port.Target), name)
		}
	}
}

// TestComposeRoles tests that the override in docs/roles.md gives each service the URL of
// its own role, and no other.
func TestComposeRoles(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs(root)
	require.NoError(t, err)
	project := overridden(t, folder, example(t, "docs/roles.md", "Docker Compose"))
	for _, name := range []string{"api", "worker", "scheduler"} {
		service, secret := project.Services[name], name+"_database_url"
		var mounted []string
		for _, s := range service.Secrets {
			mounted = append(mounted, s.Source)
		}
		require.ElementsMatch(t, []string{secret, "redis_url"}, mounted, name)
		require.Equal(t, "/run/secrets/"+secret, *service.Environment["LETHE_DATABASE_URL_FILE"])
		require.Equal(t, filepath.Join(folder, "deploy/compose/secrets", secret), project.Secrets[secret].File)
	}
}

// TestComposeBesideSynapse tests that the override in docs/compose.md gives what a Lethe
// beside a Synapse needs to workers and the doctor, and to no other service.
func TestComposeBesideSynapse(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs(root)
	require.NoError(t, err)
	project := overridden(t, folder, example(t, "docs/compose.md", "All in one, beside a Synapse"))
	for _, name := range []string{"api", "worker", "scheduler", "asynqmon", "migrate"} {
		service := project.Services[name]
		var mounted []string
		for _, s := range service.Secrets {
			mounted = append(mounted, s.Source)
		}
		if name == "asynqmon" {
			require.Equal(t, []string{"redis_url"}, mounted)
			continue
		}
		if name != "worker" && name != "migrate" {
			require.ElementsMatch(t, []string{"database_url", "redis_url"}, mounted, name)
			require.NotContains(t, service.Environment, "LETHE_HOMESERVER_AS_TOKEN_FILE", name)
			continue
		}
		require.ElementsMatch(t, []string{"database_url", "redis_url", "as_token", "synapse_redis_url"}, mounted, name)
		environment, files := map[string]string{}, map[string]string{
			"/run/secrets/database_url": "postgres://lethe:mine@db.example/synapse", "/run/secrets/redis_url": "redis://redis.example",
			"/run/secrets/as_token": "its_token", "/run/secrets/synapse_redis_url": "redis://synapse-redis.example",
		}
		for variable, value := range service.Environment {
			environment[variable] = *value
		}
		settings, err := load(t, service.Command[0], environment, files)
		require.NoError(t, err, name)
		require.Equal(t, "its_token", string(settings.Homeserver.ASToken), name)
		require.Equal(t, "redis://synapse-redis.example", string(settings.Homeserver.RedisURL), name)
	}
}

// overridden returns the project with an override, which is not a file.
func overridden(t *testing.T, folder, override string) *types.Project {
	t.Helper()
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: folder,
		ConfigFiles: []types.ConfigFile{
			{Filename: filepath.Join(folder, "docker-compose.yml")},
			{Filename: filepath.Join(folder, "docker-compose.override.yml"), Content: []byte(override)},
		},
		Environment: types.Mapping{},
	})
	require.NoError(t, err)
	return project
}

// signingKey is a signing key in Synapse's format.
const signingKey = "ed25519 a_test nS1dBSTCRSKYXJvtVjsXc8fpXIJLLSSOhoqXBwrZ3iU\n"

// TestComposeReachesOtherServers tests that beside.yml has no database, and how its containers
// reach those of the machine and of another project.
func TestComposeReachesOtherServers(t *testing.T) {
	t.Parallel()
	beside := composedOf(t, compositions["beside"].files, nil)
	joined := composedOf(t, compositions["beside, with all that is added"].files, nil)
	require.True(t, bool(joined.Networks["synapse"].External))
	require.Equal(t, "matrix_default", joined.Networks["synapse"].Name)
	for _, name := range []string{"api", "worker", "scheduler", "migrate"} {
		require.Equal(t, []string{"host-gateway"}, beside.Services[name].ExtraHosts["host.docker.internal"], name)
		require.ElementsMatch(t, []string{"data", "front"}, slices.Collect(maps.Keys(beside.Services[name].Networks)), name)
		require.ElementsMatch(t, []string{"data", "front", "synapse"}, slices.Collect(maps.Keys(joined.Services[name].Networks)), name)
	}
	for _, name := range []string{"redis", "asynqmon"} {
		require.NotContains(t, joined.Services[name].Networks, "synapse", name)
	}
	folder, err := filepath.Abs(filepath.Join(root, "deploy/compose"))
	require.NoError(t, err)
	_, err = loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: folder, Environment: types.Mapping{},
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(folder, "beside.yml")}, {Filename: filepath.Join(folder, "network.yml")}},
	})
	require.ErrorContains(t, err, "name the network")
}

// TestComposePostgres gives a PostgreSQL the settings of the bundled databases, and makes
// Lethe's role there as the container does.
func TestComposePostgres(t *testing.T) {
	t.Parallel()
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is not installed, by which the image's script makes the role")
	}
	server, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	require.NoError(t, server.CreateDatabase(t.Context(), "synapse", ""))
	address := server.URL("synapse")
	ask := func(statement string) string {
		t.Helper()
		said, err := exec.CommandContext(t.Context(), psql, "-XAtqc", statement, address).CombinedOutput()
		require.NoError(t, err, "%s", said)
		return strings.TrimSpace(string(said))
	}
	setting := regexp.MustCompile(`^([a-z_]+)=([0-9a-zA-Z]+)$`)
	for _, name := range []string{"all in one", "try"} {
		service := composedOf(t, compositions[name].files, nil).Services["postgres"]
		require.Equal(t, "postgres", service.Command[0], name)
		settings := map[string]string{}
		for i := 1; i < len(service.Command); i += 2 {
			require.Equal(t, "-c", service.Command[i], name)
			found := setting.FindStringSubmatch(service.Command[i+1])
			require.NotNil(t, found, service.Command[i+1])
			settings[found[1]] = found[2]
			ask("ALTER SYSTEM SET " + found[1] + " = '" + found[2] + "'") // refuses what it does not know
		}
		require.Equal(t, "zstd", settings["wal_compression"], name)
		bytes := func(size string) int64 {
			n, err := strconv.ParseInt(ask("SELECT pg_size_bytes('"+size+"')"), 10, 64)
			require.NoError(t, err)
			return n
		}
		limit := int64(service.MemLimit)
		require.LessOrEqual(t, bytes(settings["shared_buffers"]), limit/4, name)
		require.GreaterOrEqual(t, bytes(settings["shared_buffers"]), limit/5, name)
		require.LessOrEqual(t, bytes(settings["effective_cache_size"]), limit/2, name)
	}

	// The server's superuser is called lethe here.
	script, err := os.ReadFile(filepath.Join(root, "deploy/compose/postgres/lethe.sh"))
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(script), " lethe "+"LOGIN")+strings.Count(string(script), " TO lethe;"))
	changed := strings.NewReplacer(" lethe LOGIN", " composed LOGIN", " TO lethe;", " TO composed;").Replace(string(script))
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("it's\n"), 0o600))
	u, err := url.Parse(address)
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), "sh", "-c", changed)
	command.Env = append(os.Environ(), "PGHOST="+u.Hostname(), "PGPORT="+u.Port(), "POSTGRES_USER=lethe", "POSTGRES_DB=synapse", "LETHE_PASSWORD_FILE="+password)
	said, err := command.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Equal(t, "f|f|f|f|f", ask("SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'composed'"))
	require.Equal(t, "composed", ask("SELECT rolname FROM pg_database JOIN pg_roles ON datdba = pg_roles.oid WHERE datname = 'synapse'"))
	ask("SET ROLE composed; SET wal_compression = on; SET session_replication_role = replica; CREATE SCHEMA x")
}

// TestComposeFileInEnv reads the file .env of docs/compose.md as docker compose does without -f,
// in the folder of docker-compose.yml.
func TestComposeFileInEnv(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/compose.md"))
	require.NoError(t, err)
	example := regexp.MustCompile(`(?m)^ +(COMPOSE_FILE=\S+)\n +(SYNAPSE_NETWORK=\S+)$`).FindSubmatch(page)
	require.NotNil(t, example)
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(folder, "deploy/compose"), os.DirFS(filepath.Join(root, "deploy/compose"))))
	require.NoError(t, os.WriteFile(filepath.Join(folder, ".env"), fmt.Appendf(nil, "%s\n%s\nTAG=0.1.0\n", example[1], example[2]), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "lethe.env"), []byte("LETHE_SERVER_NAME=example.org\n"), 0o600))
	t.Chdir(folder)
	options, err := cli.NewProjectOptions(nil,
		cli.WithEnvFiles(), cli.WithDotEnv, cli.WithConfigFileEnv, cli.WithDefaultConfigPath, cli.WithEnvFiles(), cli.WithDotEnv)
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	require.NotContains(t, project.Services, "postgres")
	worker := project.Services["worker"]
	require.Equal(t, "lethe:0.1.0", worker.Image)
	require.Equal(t, "example.org", *worker.Environment["LETHE_SERVER_NAME"])
	require.Equal(t, "/run/secrets/synapse_redis_url", *worker.Environment["LETHE_HOMESERVER_REDIS_URL_FILE"])
	require.Contains(t, worker.Networks, "synapse")
	require.Equal(t, "matrix_default", project.Networks["synapse"].Name)
	require.Equal(t, filepath.Join(folder, "deploy/compose/secrets/as_token"), project.Secrets["as_token"].File)
	require.Equal(t, folder, worker.Build.Context)
}
