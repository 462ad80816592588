package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience is how long a step may take.
const patience = time.Minute

// root is the path of the console.
const root = "/_lethe/console"

// A demo is a lethe dev.
type demo struct {
	url, token string

	// database is the URL of its database, and room the id of its largest room.
	database, room string

	// pid is that of its process.
	pid int
}

// program returns the path of the program lethe, which is built unless LETHE_TEST_PROGRAMS
// names a folder that has it.
var program = sync.OnceValues(func() (string, error) {
	if folder := os.Getenv("LETHE_TEST_PROGRAMS"); folder != "" {
		return filepath.Join(folder, "lethe"), nil
	}
	path, err := filepath.Abs("../../bin/lethe")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", path, "./cmd/lethe")
	build.Dir = "../.."
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build lethe: %w: %s", err, text)
	}
	return path, nil
})

// start starts lethe dev until the test has ended, with further variables of the environment.
func start(t *testing.T, variables ...string) demo {
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	dev := exec.CommandContext(t.Context(), path, "dev", "--listen", "127.0.0.1:0")
	dev.Env = append(os.Environ(), variables...)
	dev.Cancel = func() error { return dev.Process.Signal(syscall.SIGTERM) }
	dev.WaitDelay = patience
	out, err := dev.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, dev.Start())
	t.Cleanup(func() {
		_ = dev.Process.Signal(syscall.SIGTERM)
		_, _ = io.Copy(io.Discard, out)
		_ = dev.Wait()
	})
	d := demo{pid: dev.Process.Pid}
	line := regexp.MustCompile(`^  (URL|admin token|console|PostgreSQL) +(\S+)|^  (!\S+) +20000 events`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch found := line.FindStringSubmatch(lines.Text()); {
		case found == nil:
		case found[1] == "URL":
			d.url = found[2]
		case found[1] == "console":
			require.Equal(t, d.url+root+"/", found[2])
		case found[1] == "admin token":
			d.token = found[2]
		case found[1] == "PostgreSQL":
			d.database = found[2]
		default:
			d.room = found[3]
		}
		if d.room != "" {
			return d
		}
	}
	require.Fail(t, "lethe dev has not started")
	return d
}

// sql runs statements in the database.
func (d demo) sql(t *testing.T, statements string) {
	t.Helper()
	psql := exec.CommandContext(t.Context(), "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", d.database)
	psql.Stdin = strings.NewReader(statements)
	text, err := psql.CombinedOutput()
	require.NoError(t, err, "%s", text)
}

// signal sends a signal to its Redis.
func (d demo) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.pid)) // of the thread that started it
	require.NoError(t, err)
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		require.NoError(t, err)
		for child := range strings.FieldsSeq(string(children)) {
			name, err := os.ReadFile("/proc/" + child + "/comm")
			require.NoError(t, err)
			if strings.HasPrefix(string(name), "redis-server") {
				pid, err := strconv.Atoi(child)
				require.NoError(t, err)
				require.NoError(t, syscall.Kill(pid, signal))
				return
			}
		}
	}
	require.Fail(t, "its Redis is not found")
}

// post sends a request to the API, and returns the id in the answer.
func (d demo) post(t *testing.T, path, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/_lethe/v1"+path, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+d.token)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Less(t, response.StatusCode, 300, "%s", text)
	var answer struct {
		ID string `json:"id"`
	}
	require.NoError(t, json.Unmarshal(text, &answer))
	return answer.ID
}

// browser starts a browser until the test has ended, and returns its first tab. It fails the
// test at its end if a page broke its policy, or a script has failed.
func browser(t *testing.T) context.Context {
	t.Helper()
	tab := open(t)
	watch(t, tab)
	return tab
}

// open is browser for pages that may fail.
func open(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: apt-get install chromium")
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(),
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.UserDataDir(t.TempDir()))
	t.Cleanup(cancel)
	tab, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return tab
}

// watch fails the test at its end if the tab reports what must not happen.
func watch(t *testing.T, tab context.Context) {
	var mu sync.Mutex
	var complaints []string
	chromedp.ListenTarget(tab, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *cdplog.EventEntryAdded:
			if e.Entry.Source != cdplog.SourceNetwork && e.Entry.Level == cdplog.LevelError {
				complaints = append(complaints, e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, e.ExceptionDetails.Error())
		}
	})
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		require.Empty(t, complaints)
	})
}

// run runs steps in a tab, which comes to the front: a page that is hidden is not followed.
func run(t *testing.T, tab context.Context, steps ...chromedp.Action) {
	t.Helper()
	// The first run of a tab starts it, and its context must last.
	require.NoError(t, chromedp.Run(tab))
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	steps = append([]chromedp.Action{page.BringToFront()}, steps...)
	if err := chromedp.Run(ctx, steps...); err != nil {
		var text, address string
		look, cancel := context.WithTimeout(tab, 5*time.Second)
		defer cancel()
		_ = chromedp.Run(look, chromedp.Location(&address), chromedp.Text("body", &text))
		require.NoError(t, err, "at %s: %s", address, text)
	}
}

// sees waits until the page has a text.
func sees(text string) chromedp.Action {
	return holds(fmt.Sprintf(`document.body.innerText.includes(%q)`, text))
}

// holds waits until a condition of the page holds, through navigations.
func holds(condition string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for {
			var ok bool
			if err := chromedp.Evaluate(condition, &ok).Do(ctx); err == nil && ok {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not hold: %w", condition, ctx.Err())
			case <-look.C:
			}
		}
	})
}

// has waits until the page has an element.
func has(selector string) chromedp.Action {
	return holds(fmt.Sprintf(`document.querySelector(%q) !== null`, selector))
}

// click clicks what can be reached by a link or a button with the text.
func click(text string) chromedp.Action {
	return clickFirst(fmt.Sprintf(`[...document.querySelectorAll("a, button")].find((e) => e.checkVisibility() && e.textContent.replace(/\s+/g, " ").includes(%q))`, text))
}

// clickOn clicks the first element that a selector selects.
func clickOn(selector string) chromedp.Action {
	return clickFirst(fmt.Sprintf(`document.querySelector(%q)`, selector))
}

// clickFirst clicks an element when it is there and nothing covers it. It does so in one step
// of the page. chromedp.Click finds the element, its place and clicks in steps of its own, and
// a live page may change or reload between them.
func clickFirst(element string) chromedp.Action {
	return holds(fmt.Sprintf(`(() => {
		const found = %s;
		if (!found) return false;
		found.scrollIntoView({block: "center"});
		const box = found.getClientRects()[0];
		if (!box || !found.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2))) return false;
		found.click();
		return true;
	})()`, element))
}

// ends waits until a job's page shows the job in a state in which it has ended, and has
// reloaded itself because of that. Before that it may be gone in the middle of a step.
func ends(state string) chromedp.Action {
	return holds(fmt.Sprintf(`document.readyState === "complete" && document.querySelector(".headline .%s") !== null && document.querySelector("[data-live]") === null`, state))
}

func signIn(d demo) chromedp.Action {
	return chromedp.Tasks{
		chromedp.Navigate(d.url + root + "/sign-in"),
		chromedp.SendKeys("#token", d.token+"\r", chromedp.ByID),
		has("#running"),
	}
}
