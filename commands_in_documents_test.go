package lethe_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"lethe/internal/cli"
	"lethe/internal/command"
)

// A documentedCommand is a command that a document tells its reader to run.
type documentedCommand struct {
	place string
	words []string
	// whole is false for a command that is named in a sentence, perhaps without arguments.
	whole bool
}

// programs are the programs whose commands are checked. A word before one of them, such as
// sudo, is left out.
var programs = map[string]func(*testing.T, documentedCommand) error{
	"lethe": checkLethe, "bin/lethe": checkLethe, "worker": checkLethe, "scheduler": checkLethe, "api": checkLethe,
	"make": checkMake, "curl": checkCurl, "kubectl": checkKubectl, "helm": checkHelm, "systemctl": checkSystemctl, "journalctl": checkJournalctl,
}

// shellCommands returns the simple commands of a script, each as its words without quotes. It
// knows quotes, continued lines, comments, pipes, lists and $(…). Other parts of the
// shell's language are not in the documents.
func shellCommands(script string) (commands [][]string) {
	var current []string
	var word strings.Builder
	inWord, redirects := false, false
	endWord := func() {
		if inWord && !redirects {
			current = append(current, word.String())
		}
		redirects = redirects && !inWord
		word.Reset()
		inWord = false
	}
	end := func() {
		endWord()
		if len(current) > 0 {
			commands = append(commands, current)
		}
		current, redirects = nil, false
	}
	for i := 0; i < len(script); i++ {
		switch c := script[i]; {
		case c == '\\' && i+1 < len(script):
			if i++; script[i] != '\n' {
				word.WriteByte(script[i])
				inWord = true
			}
		case c == '\'' || c == '"':
			inWord = true
			for i++; i < len(script) && script[i] != c; i++ {
				if c == '"' && script[i] == '\\' && i+1 < len(script) {
					i++
				}
				if length := substitution(script[i:]); c == '"' && length > 0 {
					commands = append(commands, shellCommands(script[i+2:i+length-1])...)
					i += length - 1
					word.WriteString("$()")
					continue
				}
				word.WriteByte(script[i])
			}
		case substitution(script[i:]) > 0:
			length := substitution(script[i:])
			commands = append(commands, shellCommands(script[i+2:i+length-1])...)
			i += length - 1
			word.WriteString("$()")
			inWord = true
		case c == '#' && !inWord:
			for i+1 < len(script) && script[i+1] != '\n' {
				i++
			}
		case c == '>' || c == '<':
			if _, isNumber := map[string]bool{"1": true, "2": true}[word.String()]; isNumber {
				word.Reset()
				inWord = false
			}
			endWord()
			redirects = true
		case c == '&' && redirects: // 2>&1
		case c == '\n' || c == ';' || c == '|' || c == '&':
			end()
		case c == ' ' || c == '\t':
			endWord()
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	end()
	return commands
}

// substitution returns the length of the $(…) with which the text begins, or 0.
func substitution(text string) int {
	if !strings.HasPrefix(text, "$(") {
		return 0
	}
	depth := 0
	for i := range text {
		switch text[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}

// programOf returns a command from the program that is checked, or nil.
func programOf(words []string) []string {
	variable := regexp.MustCompile(`^[A-Za-z_]+=`)
	for len(words) > 0 {
		switch {
		case variable.MatchString(words[0]), words[0] == "$", words[0] == "exec":
			words = words[1:]
		case words[0] == "sudo" && len(words) > 2 && words[1] == "-u":
			words = words[3:]
		case words[0] == "sudo":
			words = words[1:]
		case programs[words[0]] != nil:
			return words
		default:
			return nil
		}
	}
	return nil
}

var (
	anyFence     = regexp.MustCompile("(?ms)^( *)```([^\n]*)\n(.*?)^ *```")
	indentedText = regexp.MustCompile(`(?m)^(?: {4,}.*\n)+`)
)

// blank returns a text of the same length and with the same lines, and nothing else.
func blank(text string, by byte) string {
	blanked := bytes.Repeat([]byte{by}, len(text))
	for i := range len(text) {
		if text[i] == '\n' {
			blanked[i] = '\n'
		}
	}
	return string(blanked)
}

// documentedCommands returns the commands of all documents. A document tells commands in
// indented lines, in blocks of sh, and in code spans.
func documentedCommands(t *testing.T) (commands []documentedCommand) {
	t.Helper()
	for name, text := range documents(t) {
		add := func(offset int, script string, whole bool) {
			place := fmt.Sprintf("%s:%d", name, 1+strings.Count(text[:offset], "\n"))
			for _, words := range shellCommands(script) {
				if words = programOf(words); words != nil {
					commands = append(commands, documentedCommand{place, words, whole})
				}
			}
		}
		prose := anyFence.ReplaceAllStringFunc(text, func(block string) string { return blank(block, '-') })
		for _, at := range anyFence.FindAllStringSubmatchIndex(text, -1) {
			if language, _, _ := strings.Cut(text[at[4]:at[5]], " "); language == "sh" {
				add(at[6], text[at[6]:at[7]], true)
			}
		}
		for _, at := range indentedText.FindAllStringIndex(prose, -1) {
			if name == "docs/cli.md" {
				continue // TestReference has it that these are the program's own
			}
			add(at[0], text[at[0]:at[1]], true)
		}
		prose = indentedText.ReplaceAllStringFunc(prose, func(block string) string { return blank(block, '-') })
		for _, at := range codeSpan.FindAllStringIndex(prose, -1) {
			if span := text[at[0]+1 : at[1]-1]; strings.Contains(span, " ") {
				add(at[0], span, false)
			}
		}
	}
	return commands
}

// TestCommandsInDocumentsParse checks that the commands of documents exist, with their
// flags, targets, routes, units and files.
func TestCommandsInDocumentsParse(t *testing.T) {
	t.Parallel()
	counts := map[string]int{}
	for _, c := range documentedCommands(t) {
		counts[c.words[0]]++
		if err := programs[c.words[0]](t, c); err != nil {
			t.Errorf("%s: %q: %v", c.place, c.words, err)
		}
	}
	for program, least := range map[string]int{"lethe": 100, "make": 30, "curl": 12, "kubectl": 8, "helm": 1, "systemctl": 8} {
		require.GreaterOrEqual(t, counts[program], least, "%s: %v", program, counts)
	}
}

// TestWrongCommandsAreFound checks the checks.
func TestWrongCommandsAreFound(t *testing.T) {
	t.Parallel()
	for script, good := range map[string]bool{
		"lethe job list --state failed":                      true,
		"lethe job lits":                                     false,
		"lethe job list --stat failed":                       false,
		"lethe job cancel":                                   false,
		"lethe purge '!abc:example.org' --before 90d --wait": true,
		"lethe purge '!abc:example.org' --before soon":       true, // the program refuses it later
		"scheduler --once --job nightly":                     true,
		"scheduler --twice":                                  false,
		"make test":                                          true,
		"make tset":                                          false,
		"make chaos SEED=1":                                  true,
		"make chaos SED=1":                                   false,
		`curl -X POST "$URL/_synapse/admin/v1/purge_history/$ROOM" -d '{}'`:                true,
		`curl "$URL/_synapse/admin/v1/purge_history/$ROOM"`:                                false,
		`curl "$URL/_synapse/admin/v1/purge_histroy_status/$ID"`:                           false,
		"curl http://127.0.0.1:8470/readyz":                                                true,
		"curl http://127.0.0.1:8470/ready":                                                 false,
		"kubectl apply -k .":                                                               true,
		"kubectl apply -k deploy/kubernetes/overlays/none":                                 false,
		"kubectl -n lethe logs -f job/lethe-migrat":                                        false,
		"helm install lethe deploy/helm -n lethe":                                          true,
		"helm instal lethe deploy/helm":                                                    false,
		"helm install lethe deploy/chart":                                                  false,
		"systemctl enable --now lethe.target":                                              true,
		"systemctl enable --now lethe@wroker":                                              false,
		"systemctl enabel lethe.target":                                                    false,
		"journalctl -u 'lethe@*'":                                                          true,
		"journalctl -u 'lethe.api'":                                                        false,
		"lethe doctor | grep -o 'GRANT .*;' | sudo -u postgres psql synapse # all of them": true,
		"echo \"$(lethe docter)\"":                                                         false,
	} {
		var errs []error
		count := 0
		for _, words := range shellCommands(script) {
			if words = programOf(words); words != nil {
				count++
				if err := programs[words[0]](t, documentedCommand{script, words, true}); err != nil {
					errs = append(errs, err)
				}
			}
		}
		require.Equal(t, 1, count, script)
		require.Equal(t, good, len(errs) == 0, "%s: %v", script, errs)
	}
}

// oldFlag matches a flag with a single dash.
var oldFlag = regexp.MustCompile(`^-[a-z]{2,}$`)

// checkLethe checks a command of lethe, or of a process of that name.
func checkLethe(t *testing.T, c documentedCommand) error {
	t.Helper()
	args := slices.Clone(c.words[1:])
	if name := c.words[0]; name != "lethe" && name != "bin/lethe" {
		if !c.whole && (len(args) == 0 || !strings.HasPrefix(args[0], "-")) {
			return nil // a sentence about an api
		}
		args = append([]string{name}, args...)
	}
	for i := range args { // optional ones
		args[i] = strings.Trim(args[i], "[]")
	}
	root := cli.New(nil, nil)
	command.Prepare(root)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	if len(args) > 0 && (args[0] == "--version" || args[0] == "--help") {
		return nil
	}
	found, rest, err := root.Find(args)
	switch {
	case err != nil:
		return err
	case found == root && len(args) > 0:
		return fmt.Errorf("no command is %s", args[0])
	}
	if slices.ContainsFunc(rest, func(arg string) bool { return oldFlag.MatchString(arg) }) && !c.whole {
		return nil // the change log names forms of earlier versions
	}
	if err := found.ParseFlags(rest); err != nil {
		if !c.whole && strings.Contains(err.Error(), "flag needs an argument") {
			return nil
		}
		return err
	}
	rest = found.Flags().Args()
	if found.HasSubCommands() && len(rest) > 0 {
		return fmt.Errorf("%s has no command %s", found.CommandPath(), rest[0])
	}
	if !c.whole && len(rest) == 0 {
		return nil
	}
	return argumentsOf(found, rest)
}

// argumentsOf checks how many arguments a command has.
func argumentsOf(c *cobra.Command, args []string) error {
	if c.Args == nil {
		return nil
	}
	if all := c.Flags().Lookup("all-matching"); len(args) == 0 && all != nil && !all.Changed {
		return fmt.Errorf("%s needs the id of a job", c.CommandPath())
	}
	return c.Args(c, args)
}

// checkMake checks the targets and variables of make.
func checkMake(t *testing.T, c documentedCommand) error {
	t.Helper()
	text, err := os.ReadFile("Makefile")
	require.NoError(t, err)
	for _, word := range c.words[1:] {
		name, _, isVariable := strings.Cut(word, "=")
		switch {
		case isVariable && strings.HasPrefix(name, "LETHE_"): // a setting of what make starts
		case isVariable && !regexp.MustCompile(`\$\(`+regexp.QuoteMeta(name)+`\)|\$\((?:or|if) \$\(`+regexp.QuoteMeta(name)+`\)`).Match(text):
			return fmt.Errorf("the Makefile has no variable %s", name)
		case !isVariable && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(word)+`:`).Match(text):
			return fmt.Errorf("the Makefile has no target %s", word)
		}
	}
	return nil
}

// A documentedRoute is a route of docs/api.md.
type documentedRoute struct {
	method string
	path   *regexp.Regexp
}

// documentedRoutes returns the routes of docs/api.md, and those of health and metrics.
func documentedRoutes(t *testing.T) (routes []documentedRoute) {
	t.Helper()
	parameter := regexp.MustCompile(`\\\{[a-z_]+\\\}`)
	add := func(method, path string) {
		pattern := parameter.ReplaceAllString(regexp.QuoteMeta(path), `[^/]+`)
		routes = append(routes, documentedRoute{method, regexp.MustCompile(`^` + pattern + `$`)})
	}
	for _, found := range regexp.MustCompile("`(GET|POST|PUT|DELETE) (/[^`]+)`").FindAllStringSubmatch(documents(t)["docs/api.md"], -1) {
		add(found[1], found[2])
	}
	for _, found := range regexp.MustCompile("(?m)^\\| `(/(?:healthz|readyz|metrics))` \\|").FindAllStringSubmatch(documents(t)["docs/api.md"], -1) {
		add("GET", found[1])
	}
	require.Greater(t, len(routes), 50)
	return routes
}

// checkCurl checks that a request is one of docs/api.md.
func checkCurl(t *testing.T, c documentedCommand) error {
	t.Helper()
	method, target, data := "", "", false
	for i := 1; i < len(c.words); i++ {
		switch word := c.words[i]; {
		case word == "-X" && i+1 < len(c.words):
			i++
			method = c.words[i]
		case word == "-d" || word == "--data":
			i++
			data = true
		case word == "-H" || word == "-o" || word == "--max-time":
			i++
		case word == "…" || strings.HasPrefix(word, "-"):
		default:
			target = word
		}
	}
	if target == "" {
		if !c.whole {
			return nil
		}
		return fmt.Errorf("it has no URL")
	}
	if method == "" {
		method = "GET"
		if data {
			method = "POST"
		}
	}
	path := regexp.MustCompile(`^(?:\$[A-Z_]+|https?://[^/]+|…)`).ReplaceAllString(target, "")
	path, _, _ = strings.Cut(path, "?")
	for _, route := range documentedRoutes(t) {
		matches := route.path.MatchString(path)
		if strings.HasPrefix(target, "…") { // the beginning is left out
			matches = regexp.MustCompile(strings.Replace(route.path.String(), "^", "^/_synapse/admin", 1)).MatchString(path) ||
				strings.HasPrefix(route.path.String(), "^/_synapse/admin") && route.path.MatchString("/_synapse/admin"+path)
		}
		if matches && route.method == method {
			return nil
		}
	}
	return fmt.Errorf("docs/api.md has no %s %s", method, path)
}

// verbOf returns the first word that is neither a flag nor the value of one of the flags.
func verbOf(words []string, valued ...string) string {
	for i := 1; i < len(words); i++ {
		switch {
		case slices.Contains(valued, words[i]):
			i++
		case !strings.HasPrefix(words[i], "-"):
			return words[i]
		}
	}
	return ""
}

// checkKubectl checks the verb, the folders and the names of Lethe's objects.
func checkKubectl(t *testing.T, c documentedCommand) error {
	t.Helper()
	if verb := verbOf(c.words, "-n", "--namespace"); !slices.Contains([]string{
		"apply", "create", "delete", "diff", "exec", "get", "kustomize", "label", "logs", "port-forward", "rollout", "scale", "wait",
	}, verb) {
		return fmt.Errorf("%s is no verb that these documents use", verb)
	}
	var objects string
	files, err := filepath.Glob("deploy/kubernetes/*/*.yaml")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		objects += string(text)
	}
	for i, word := range c.words {
		if c.words[i-min(i, 1)] == "-k" && word != "-k" && word != "." {
			if _, err := os.Stat(filepath.Join(word, "kustomization.yaml")); err != nil {
				return fmt.Errorf("%s has no kustomization.yaml", word)
			}
		}
		for _, name := range regexp.MustCompile(`\blethe-[a-z]+\b`).FindAllString(word, -1) {
			isLabel := strings.HasPrefix(word, name+"=")
			if !regexp.MustCompile(`name: `+name+`\b`).MatchString(objects) && (!isLabel || !strings.Contains(objects, name+":")) {
				return fmt.Errorf("deploy/kubernetes has no %s", name)
			}
		}
	}
	return nil
}

// checkHelm checks the verb, the chart and the files of this repository.
func checkHelm(t *testing.T, c documentedCommand) error {
	t.Helper()
	if verb := verbOf(c.words); !slices.Contains([]string{"install", "lint", "template", "uninstall", "upgrade"}, verb) {
		return fmt.Errorf("%s is no verb that these documents use", verb)
	}
	for _, word := range c.words[1:] {
		if strings.HasPrefix(word, "deploy/") {
			file := word
			if filepath.Ext(word) == "" {
				file = filepath.Join(word, "Chart.yaml")
			}
			if _, err := os.Stat(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// systemUnits are the units that documents name, besides Lethe's.
var systemUnits = []string{"prometheus", "nginx", "caddy", "matrix-synapse", "postgresql", "redis-server"}

// isUnit reports whether a unit is one of Lethe's, or of a server that it needs.
func isUnit(name string) bool {
	process, isInstance := strings.CutPrefix(strings.TrimSuffix(name, ".service"), "lethe@")
	if !isInstance { // as the Ansible role names them
		process, isInstance = strings.CutPrefix(process, "matrix-lethe-")
	}
	return name == "lethe.target" || slices.Contains(systemUnits, name) ||
		isInstance && slices.Contains([]string{"api", "worker", "scheduler", "asynqmon", "*"}, process)
}

// checkSystemctl checks the verb and the units.
func checkSystemctl(t *testing.T, c documentedCommand) error {
	t.Helper()
	verb := verbOf(c.words)
	if verb == "daemon-reload" {
		return nil
	}
	if !slices.Contains([]string{"enable", "disable", "mask", "unmask", "start", "stop", "restart", "reload", "status", "is-active", "edit"}, verb) {
		return fmt.Errorf("%s is no verb that these documents use", verb)
	}
	units := 0
	for _, word := range c.words[1:] {
		if word == verb || strings.HasPrefix(word, "-") {
			continue
		}
		if units++; !isUnit(word) {
			return fmt.Errorf("there is no unit %s", word)
		}
	}
	if units == 0 && c.whole {
		return fmt.Errorf("it names no unit")
	}
	return nil
}

// checkJournalctl checks the units.
func checkJournalctl(t *testing.T, c documentedCommand) error {
	t.Helper()
	for i, word := range c.words {
		if c.words[i-min(i, 1)] == "-u" && word != "-u" && !isUnit(word) {
			return fmt.Errorf("there is no unit %s", word)
		}
	}
	return nil
}
