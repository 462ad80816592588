package validate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// A playedRole is what the Ansible role has left in folders of a test.
type playedRole struct {
	folder string // has base, units, docker.log and systemctl.log
}

// ansible returns a command of Ansible in deploy/ansible. It skips the test unless it runs
// in make ansible-test, because Ansible takes longer than all other tests here.
func ansible(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getenv("LETHE_TEST_ANSIBLE") == "" {
		t.Skip("make ansible-test runs this")
	}
	program, err := exec.LookPath(name)
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), program, args...)
	command.Dir = filepath.Join(root, "deploy/ansible")
	home := t.TempDir()
	command.Env = append(os.Environ(), "HOME="+home, "ANSIBLE_HOME="+home, "ANSIBLE_LOCAL_TEMP="+home, "ANSIBLE_NOCOLOR=1", "ANSIBLE_PIPELINING=1", "LC_ALL=C.UTF-8")
	return command
}

func TestAnsibleSyntax(t *testing.T) {
	t.Parallel()
	said, err := ansible(t, "ansible-playbook", "-i", "localhost,", "--syntax-check", "playbook.yml").CombinedOutput()
	require.NoError(t, err, "%s", said)
}

func TestAnsibleLint(t *testing.T) {
	t.Parallel()
	said, err := ansible(t, "ansible-lint", "--offline", "--nocolor", "--strict", "-q").CombinedOutput()
	require.NoError(t, err, "%s", said)
}

// settled are the variables that the role needs.
var settled = map[string]any{
	"matrix_lethe_version":                                    "0.1.0",
	"matrix_server_fqn_matrix":                                "matrix.example.org",
	"matrix_domain":                                           "example.org",
	"matrix_lethe_database_hostname":                          "matrix-postgres",
	"matrix_lethe_database_password":                          "pass/w0rd:@%$ '?#",
	"matrix_lethe_redis_hostname":                             "matrix-valkey",
	"matrix_lethe_redis_password":                             "r/s",
	"matrix_lethe_homeserver_as_token":                        "an_as_token",
	"matrix_lethe_homeserver_hs_token":                        "an_hs_token",
	"matrix_lethe_homeserver_redis_url":                       "redis://matrix-valkey:6379/0",
	"matrix_lethe_signing_key_path":                           "/matrix/synapse/config/example.org.signing.key",
	"matrix_lethe_container_additional_networks":              []string{"matrix-postgres", "traefik"},
	"matrix_lethe_container_http_host_bind_port":              "127.0.0.1:8470",
	"matrix_lethe_environment_variables_additional_variables": "LETHE_WORKER_CONCURRENCY=3\nLETHE_LOG_LEVEL=debug",
}

// play runs the role on this machine, with its files in a folder, and programs in place of
// docker and systemctl that write down what they are asked. It returns what Ansible says.
func (p playedRole) play(t *testing.T, variables map[string]any) (string, error) {
	t.Helper()
	bin := filepath.Join(p.folder, "bin")
	require.NoError(t, os.MkdirAll(bin, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(p.folder, "units"), 0o755))
	const docker = "#!/bin/sh\necho \"$@\" >>%[1]s/docker.log\n" +
		"case \"$1 $2\" in *' inspect') test -e %[1]s/$1-there ;; 'network create') touch %[1]s/network-there ;; pull*) touch %[1]s/image-there ;; esac\n"
	const systemctl = "#!/bin/sh\necho \"$@\" >>%[1]s/systemctl.log\ncase \"$*\" in *show*) echo LoadState=loaded; echo ActiveState=active ;; *is-enabled*) echo enabled ;; esac\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker"), fmt.Appendf(nil, docker, p.folder), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "systemctl"), fmt.Appendf(nil, systemctl, p.folder), 0o755))
	all := map[string]any{
		"matrix_base_data_path": filepath.Join(p.folder, "base"), "matrix_lethe_systemd_path": filepath.Join(p.folder, "units"),
		"matrix_lethe_host_command_docker": filepath.Join(bin, "docker"),
		"matrix_user_uid":                  "65532", "matrix_user_gid": "65532",
	}
	if os.Getuid() != 0 { // only root may give files away
		all["matrix_user_uid"], all["matrix_user_gid"] = fmt.Sprint(os.Getuid()), fmt.Sprint(os.Getgid())
	}
	for name, value := range settled {
		all[name] = value
	}
	for name, value := range variables {
		all[name] = value
	}
	text, err := yaml.Marshal([]any{map[string]any{
		"hosts": "localhost", "connection": "local", "gather_facts": false, "vars": all, "roles": []string{"custom/matrix-lethe"},
	}})
	require.NoError(t, err)
	playbook := filepath.Join(p.folder, "playbook.yml")
	require.NoError(t, os.WriteFile(playbook, text, 0o600))
	command := ansible(t, "ansible-playbook", "-i", "localhost,", playbook)
	command.Env = append(command.Env, "PATH="+bin+":"+os.Getenv("PATH"), "ANSIBLE_REMOTE_TEMP="+p.folder)
	said, err := command.CombinedOutput()
	return string(said), err
}

// read returns the text of a file.
func (p playedRole) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.folder, name))
	require.NoError(t, err)
	return string(text)
}

// TestAnsibleRole runs the role. Its units must please systemd, its settings Lethe, and its
// labels must be the rules of the file for Traefik. A second run changes nothing, and without
// Lethe nothing of it is left.
func TestAnsibleRole(t *testing.T) {
	t.Parallel()
	p := playedRole{t.TempDir()}
	said, err := p.play(t, nil)
	require.NoError(t, err, said)
	for _, secret := range []string{"an_as_token", "an_hs_token", "w0rd"} {
		require.NotContains(t, said, secret)
	}
	require.Contains(t, p.read(t, "docker.log"), "image inspect lethe:0.1.0\npull lethe:0.1.0\nnetwork inspect matrix-lethe\nnetwork create matrix-lethe\n")
	require.Equal(t, "daemon-reload\n", p.read(t, "systemctl.log"))
	for _, name := range []string{"migrate", "api", "worker", "scheduler"} {
		p.requireUnit(t, name)
	}
	p.requireRules(t)
	p.requireRegistration(t)
	p.requireCommand(t)

	said, err = p.play(t, nil)
	require.NoError(t, err, said)
	require.Regexp(t, `changed=0 `, said, "a second run changes nothing")

	said, err = p.play(t, map[string]any{"matrix_lethe_enabled": false})
	require.NoError(t, err, said)
	require.Contains(t, said, "The schema lethe")
	require.NoDirExists(t, filepath.Join(p.folder, "base/lethe"))
	left, err := os.ReadDir(filepath.Join(p.folder, "units"))
	require.NoError(t, err)
	require.Empty(t, left)
	for _, name := range []string{"migrate", "api", "worker", "scheduler"} {
		require.Contains(t, p.read(t, "systemctl.log"), "stop matrix-lethe-"+name+"\n")
	}
}

// requireUnit checks a unit, and the settings and secrets of its container.
func (p playedRole) requireUnit(t *testing.T, name string) {
	t.Helper()
	unit := p.read(t, "units/matrix-lethe-"+name+".service")
	if analyze, err := exec.LookPath("systemd-analyze"); err == nil {
		others := filepath.Join(t.TempDir(), "units")
		require.NoError(t, os.CopyFS(others, os.DirFS(filepath.Join(p.folder, "units"))))
		require.NoError(t, os.WriteFile(filepath.Join(others, "docker.service"), []byte("[Service]\nExecStart=/bin/true\n"), 0o600))
		command := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", filepath.Join(others, "matrix-lethe-"+name+".service"))
		command.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+others+":")
		said, err := command.CombinedOutput()
		require.NoError(t, err, "%s", said)
		require.NotContains(t, string(said), "matrix-lethe", "%s", said)
	}
	create := regexp.MustCompile(`(?m)^ExecStartPre=\S+ create ((?:.*\\\n)*.*)$`).FindStringSubmatch(unit)
	require.NotNil(t, create, unit)
	arguments := strings.Fields(strings.ReplaceAll(create[1], "\\\n", " "))
	for _, want := range []string{"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m", "--name=matrix-lethe-" + name} {
		require.Contains(t, arguments, want)
	}
	require.Equal(t, name == "api", strings.Contains(create[1], "--publish=127.0.0.1:8470:8470 "))
	program := arguments[len(arguments)-1]
	if name == "migrate" {
		require.Equal(t, []string{"/lethe", "migrate"}, arguments[len(arguments)-2:])
		program = "/lethe"
	} else {
		require.Equal(t, "/"+name, program)
		require.Contains(t, unit, "\nWants=matrix-lethe-migrate.service\nAfter=matrix-lethe-migrate.service\n")
	}
	for _, network := range []string{"matrix-postgres", "traefik"} {
		require.Contains(t, unit, " network connect "+network+" matrix-lethe-"+name+"\n")
	}

	environment, files := map[string]string{}, map[string]string{}
	for line := range strings.Lines(p.read(t, "base/lethe/config/env-"+name)) {
		variable, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		require.True(t, found, line)
		environment[variable] = value
	}
	var mounted []string
	for _, found := range regexp.MustCompile(`--mount=type=bind,src=(\S+),dst=(/run/secrets/\S+),ro `).FindAllStringSubmatch(create[1], -1) {
		mounted = append(mounted, strings.TrimPrefix(found[2], "/run/secrets/"))
		if found[1] == settled["matrix_lethe_signing_key_path"] {
			files[found[2]] = signingKey
			continue
		}
		text, err := os.ReadFile(found[1])
		require.NoError(t, err)
		files[found[2]] = string(text)
		info, err := os.Stat(found[1])
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o400), info.Mode().Perm(), found[1])
	}
	want := []string{"database_url", "redis_url"}
	if name == "worker" || name == "migrate" {
		want = append(want, "homeserver_as_token", "homeserver_redis_url")
	}
	if name == "worker" {
		want = append(want, "signing_key")
	}
	require.ElementsMatch(t, want, mounted, name)
	settings, err := load(t, program, environment, files)
	require.NoError(t, err, name)
	require.Equal(t, "postgres://lethe:pass%2Fw0rd%3A%40%25%24%20%27%3F%23@matrix-postgres:5432/synapse?sslmode=disable", string(settings.Database.URL))
	require.Equal(t, "redis://:r%2Fs@matrix-valkey:6379/1", string(settings.Redis.URL))
	require.Equal(t, "example.org", settings.ServerName)
	require.Equal(t, 3, settings.Worker.Concurrency, "the additional variables win")
	if name == "worker" {
		require.Contains(t, unit, " stop -t 45 ")
		require.Greater(t, 45.0, (settings.Worker.DrainTimeout + bookkeeping).Seconds())
		require.NotEmpty(t, settings.SigningKeyFile)
		require.Equal(t, "an_as_token", string(settings.Homeserver.ASToken))
	}
}

// requireRules checks that the labels have the rules of the routers to Lethe in the file for
// Traefik, which is compared with the documents elsewhere.
func (p playedRole) requireRules(t *testing.T) {
	t.Helper()
	var file struct {
		HTTP struct {
			Routers map[string]struct{ Rule, Service string }
		}
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy/traefik/lethe.yml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &file))
	plain := strings.NewReplacer(" ", "", "\n", "", "(", "", ")", "") // all rules are of && before ||
	var want, have []string
	for _, router := range file.HTTP.Routers {
		if router.Service == "lethe" {
			want = append(want, plain.Replace(router.Rule))
		}
	}
	labels := p.read(t, "base/lethe/config/labels")
	for _, found := range regexp.MustCompile(`(?m)^traefik\.http\.routers\.matrix-lethe-([a-z]+)\.rule=(.+)$`).FindAllStringSubmatch(labels, -1) {
		have = append(have, plain.Replace(found[2]))
		require.Regexp(t, "^Host\\(`matrix\\.example\\.org`\\) && \\(Method\\([^&]+\\) && \\(PathRegexp\\(.+\\)\\)$", found[2])
		for _, line := range []string{".priority=10000", ".service=matrix-lethe", ".entrypoints=web-secure", ".tls=true", ".tls.certResolver=default", ".middlewares=matrix-lethe-readable-errors"} {
			require.Contains(t, labels, "traefik.http.routers.matrix-lethe-"+found[1]+line+"\n")
		}
	}
	require.ElementsMatch(t, want, have)
	require.Contains(t, labels, "traefik.http.services.matrix-lethe.loadbalancer.server.port=8470\n")
}

// requireRegistration compares the registration with that in docs/install.md.
func (p playedRole) requireRegistration(t *testing.T) {
	t.Helper()
	var have, want map[string]any
	require.NoError(t, yaml.UnmarshalStrict([]byte(p.read(t, "base/lethe/config/registration.yaml")), &have))
	page, err := os.ReadFile(filepath.Join(root, "docs/install.md"))
	require.NoError(t, err)
	example := regexp.MustCompile("(?s)```yaml\n(id: lethe\n.*?)```").FindSubmatch(page)
	require.NotNil(t, example)
	require.NoError(t, yaml.UnmarshalStrict(example[1], &want))
	want["as_token"], want["hs_token"] = "an_as_token", "an_hs_token"
	require.Equal(t, want, have)
}

// requireCommand runs the command lethe that the role writes.
func (p playedRole) requireCommand(t *testing.T) {
	t.Helper()
	said, err := exec.CommandContext(t.Context(), filepath.Join(p.folder, "base/lethe/bin/lethe"), "hold", "place", "!a:b", "two words").CombinedOutput()
	require.NoError(t, err, "%s", said)
	log := p.read(t, "docker.log")
	require.Regexp(t, `(?m)^create --name=matrix-lethe-command-\d+ --interactive .* lethe:0\.1\.0 /lethe hold place !a:b two words$`, log)
	require.Regexp(t, `(?m)^network connect traefik matrix-lethe-command-\d+\nstart --attach --interactive matrix-lethe-command-\d+\nrm --force matrix-lethe-command-\d+$`, log)
}

// TestAnsibleRoleRefuses tests that settings which cannot work change nothing.
func TestAnsibleRoleRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		value any
		says  string
	}{
		"matrix_lethe_version":             {"", "Lethe needs matrix_lethe_version"},
		"matrix_lethe_database_password":   {"", "Lethe needs matrix_lethe_database_password"},
		"matrix_lethe_uid":                 {"0", "must be numbers, and not those of root"},
		"matrix_lethe_server_name":         {"example.org\nLETHE_X=1", "matrix_lethe_server_name must be one line"},
		"matrix_lethe_homeserver_hs_token": {"", "or neither"},
		"matrix_server_fqn_matrix":         {"", "Lethe needs matrix_lethe_container_labels_traefik_hostname"},
	} {
		p := playedRole{t.TempDir()}
		said, err := p.play(t, map[string]any{name: test.value})
		require.Error(t, err, name)
		require.Contains(t, said, test.says, name)
		require.NoDirExists(t, filepath.Join(p.folder, "base"), name)
		require.NoFileExists(t, filepath.Join(p.folder, "docker.log"), name)
	}
}
