package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience is how long a step may take.
const patience = time.Minute

// A demo is a lethe dev.
type demo struct{ url, token, room string }

// start starts lethe dev until the test has ended.
func start(t *testing.T) demo {
	t.Helper()
	program := filepath.Join(t.TempDir(), "lethe")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/lethe")
	build.Dir = "../.."
	text, err := build.CombinedOutput()
	require.NoError(t, err, "%s", text)
	dev := exec.CommandContext(t.Context(), program, "dev", "--listen", "127.0.0.1:0")
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
	var d demo
	line := regexp.MustCompile(`^  (URL|admin token|console) +(\S+)|^  (!\S+) +20000 events`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch found := line.FindStringSubmatch(lines.Text()); {
		case found == nil:
		case found[1] == "URL":
			d.url = found[2]
		case found[1] == "console":
			require.Equal(t, d.url+"/_lethe/console/", found[2])
		case found[1] == "admin token":
			d.token = found[2]
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

// run runs steps in a tab.
func run(t *testing.T, tab context.Context, steps ...chromedp.Action) {
	t.Helper()
	// The first run of a tab starts it, and its context must last.
	require.NoError(t, chromedp.Run(tab))
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
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
	return chromedp.Click(fmt.Sprintf(`//*[self::a or self::button][contains(normalize-space(.), %q)]`, text), chromedp.BySearch, chromedp.NodeVisible)
}

func signIn(d demo) chromedp.Action {
	return chromedp.Tasks{
		chromedp.Navigate(d.url + "/_lethe/console/sign-in"),
		chromedp.SendKeys("#token", d.token+"\r", chromedp.ByID),
		has("#running"),
	}
}

// picture takes pictures of a page in both themes and two widths, into the folder that
// LETHE_TEST_PICTURES names. No page is wider than the window.
func picture(t *testing.T, name string) chromedp.Action {
	folder := os.Getenv("LETHE_TEST_PICTURES")
	return chromedp.ActionFunc(func(ctx context.Context) error {
		for _, width := range []int64{1280, 390} {
			for _, theme := range []string{"light", "dark"} {
				var wide int64
				var text []byte
				if err := chromedp.Run(ctx,
					chromedp.EmulateViewport(width, 800),
					emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
					chromedp.Evaluate(`document.documentElement.scrollWidth`, &wide),
				); err != nil {
					return err
				}
				require.LessOrEqual(t, wide, width, "%s is wider than a window of %d", name, width)
				if folder == "" {
					continue
				}
				if err := chromedp.Run(ctx, chromedp.FullScreenshot(&text, 100)); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%s-%d-%s.png", name, width, theme)), text, 0o600); err != nil {
					return err
				}
			}
		}
		return chromedp.Run(ctx, chromedp.EmulateViewport(1280, 800))
	})
}

func TestConsoleInABrowser(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	root := d.url + "/_lethe/console/"

	// A wrong token, and then the right one. The browser takes the cookie over plain HTTP from
	// this machine, and no script can read it.
	var address, title, readable string
	run(t, tab,
		chromedp.Navigate(root+"jobs?state=failed"),
		chromedp.Location(&address),
		picture(t, "sign-in"),
		chromedp.SendKeys("#token", "wrong\r", chromedp.ByID),
		sees("Invalid access token passed."),
		picture(t, "wrong-token"),
		chromedp.SendKeys("#token", d.token+"\r", chromedp.ByID),
		sees("No job matches."),
		chromedp.Title(&title),
		chromedp.Evaluate(`document.cookie`, &readable),
	)
	require.Contains(t, address, "/sign-in?next=")
	require.Equal(t, "Jobs · Lethe", title)
	require.Empty(t, readable)
	run(t, tab, chromedp.ActionFunc(func(ctx context.Context) error {
		cookies, err := network.GetCookies().Do(ctx)
		require.NoError(t, err)
		require.Len(t, cookies, 1)
		require.Equal(t, "__Host-lethe_console", cookies[0].Name)
		require.True(t, cookies[0].HTTPOnly && cookies[0].Secure)
		require.Equal(t, network.CookieSameSiteStrict, cookies[0].SameSite)
		return nil
	}))

	// A new job appears on the overview by itself.
	run(t, tab, click("Overview"), sees("No job waits."), chromedp.Evaluate(`window.same = "the same page"`, nil))
	job := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "delete_local_events": true, "grace": "1h", "reason": "<b>tidy</b>"}`,
		d.room, time.Now().Add(-time.Hour).UnixMilli()))
	var same, zone string
	run(t, tab, sees(job), sees("grace: it ends at"), chromedp.Evaluate(`window.same`, &same),
		chromedp.Evaluate(`document.querySelector("footer time").title`, &zone), picture(t, "overview-waiting"))
	require.Equal(t, "the same page", same)
	require.Regexp(t, ` UTC$`, zone)

	// Cancel it, after a page that asks. A second tab follows the job.
	other, cancel := chromedp.NewContext(tab)
	defer cancel()
	watch(t, other)
	run(t, other, chromedp.Navigate(root+"jobs/"+job), sees("scheduled"))
	run(t, tab,
		click(job), sees("<b>tidy</b>"), picture(t, "job-waiting"),
		click("Cancel …"), sees("What is deleted stays deleted"), picture(t, "cancel"),
		chromedp.SendKeys("#reason", "not today"), click("Cancel the job"),
		sees("The job is cancelled."), sees("not today"), picture(t, "job-cancelled"),
	)
	run(t, other, has(".headline .cancelled"))

	// Retry it, which leaves its grace as it was. Another job has a short one: watch it to its
	// end without a hand.
	run(t, other, sees("Retry …"))
	run(t, tab, click("Retry …"), has("#reason"), click("Retry"), sees("The job goes on when its turn comes."), has(".headline .scheduled"))
	job = d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "delete_local_events": true, "grace": "3s"}`,
		d.room, time.Now().Add(-2*time.Hour).UnixMilli()))
	run(t, tab, chromedp.Navigate(root+"jobs/"+job), has(".headline .scheduled"))
	run(t, other, chromedp.Navigate(root), sees(job))
	run(t, tab, has(".headline .complete"), sees("event_json"), picture(t, "job-complete"))
	run(t, other, has(".plot rect"), sees("No job runs."))
	run(t, tab, click("Overview"), has(".plot rect"), picture(t, "overview"), click("Jobs"), sees(job), picture(t, "jobs"))

	// What the job refuses now is said, and nothing is offered.
	run(t, tab, chromedp.Navigate(root+"jobs/"+job+"/cancel"), sees("The job cannot be cancelled"), picture(t, "refused"),
		chromedp.Navigate(root+"jobs/AAAAAAAAAAAAAAAA"), sees("There is no job"), picture(t, "not-found"))

	// Hold a room, and see that its purge waits; lift the hold.
	run(t, tab, click("Rooms"), sees("State groups"), picture(t, "rooms"), chromedp.Navigate(root+"room?room="+url.QueryEscape(d.room)), picture(t, "room"),
		click("hold it …"), has("#reason"), chromedp.SendKeys("#reason", "Court order 7"), picture(t, "hold"), click("Hold the room"),
		sees("The room is held."), sees("Court order 7"), picture(t, "holds"),
		click("Lift …"), sees("gone for ever"), picture(t, "lift"), click("Lift the hold"), sees("No room is held."))

	// Plan and apply.
	run(t, tab, chromedp.Navigate(root+"room?room="+url.QueryEscape(d.room)), has("#local"), chromedp.SetAttributeValue("#before", "value", "2030-01-31T12:00"),
		chromedp.Click("#local"), click("Show the plan"), sees("are deleted"), picture(t, "plan"), click("Purge the history"), sees("The job is accepted."))

	// Sign out in one tab: the other has no session either.
	run(t, other, chromedp.Navigate(root), sees("No job runs."))
	run(t, tab, click("Sign out"), sees("You have signed out."))
	run(t, other, sees("Your session has ended. Sign in again to go on."), chromedp.Reload(), has("#token"))
}

func TestConsoleWithoutAScript(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	run(t, tab, emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(d.url+"/_lethe/console/"),
		chromedp.SendKeys("#token", d.token+"\r", chromedp.ByID), has("#running"))
	job := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "grace": "1h"}`, d.room, time.Now().UnixMilli()))
	var text string
	run(t, tab, chromedp.Navigate(d.url+"/_lethe/console/"), chromedp.Text("main", &text), click(job), has(".headline .scheduled"))
	require.Contains(t, text, job)
	run(t, tab, chromedp.Text("footer", &text))
	require.Regexp(t, `Page of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`, text)
	run(t, tab, click("Pause …"), has("#for"), chromedp.SetValue("#for", "1h"), chromedp.SendKeys("#reason", "night"),
		click("Pause"), has(".said"), chromedp.Text("main", &text))
	require.Contains(t, text, "The job is paused.")
	require.Contains(t, text, "night")
}

// A page of another site can neither show the console in a frame, nor send a form for the
// user.
func TestConsoleAndAnotherSite(t *testing.T) {
	t.Parallel()
	tab := open(t)
	d := start(t)
	job := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "grace": "1h"}`, d.room, time.Now().UnixMilli()))
	page := d.url + "/_lethe/console/jobs/" + job
	attacker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<form id="form" method="post" action="`+page+`/cancel"><input name="proof" value="x"></form><iframe src="`+page+`"></iframe>`)
	}))
	t.Cleanup(attacker.Close)
	framed := make(chan string, 100)
	chromedp.ListenTarget(tab, func(event any) {
		if e, ok := event.(*cdplog.EventEntryAdded); ok && strings.Contains(e.Entry.Text, "frame-ancestors") {
			framed <- e.Entry.Text
		}
	})
	run(t, tab, signIn(d), chromedp.Navigate(page), has(".headline .scheduled"))
	other := strings.Replace(attacker.URL, "127.0.0.1", "localhost", 1) // which is another site
	run(t, tab, chromedp.Navigate(other), has("#form"))
	select {
	case text := <-framed:
		require.Contains(t, text, "'none'")
	case <-time.After(patience):
		require.Fail(t, "the console was shown in a frame")
	}
	run(t, tab, chromedp.Evaluate(`document.getElementById("form").submit()`, nil), sees("The request comes from the page of another site."))
	run(t, tab, chromedp.Navigate(page), has(".headline .scheduled"))
}
