package console

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// focused is what has the focus of the keyboard: its place among the controls of the page,
// whether the page shows that it has the focus, and its text.
type focused struct {
	Place   int    `json:"place"`
	Visible bool   `json:"visible"`
	Text    string `json:"text"`
}

// controls are a page's controls in the order of its text.
const controls = `[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary")]`

// tabs goes through a page with the key Tab, and requires that it reaches each control once,
// in the order of the text, where the page shows the focus.
func tabs(t *testing.T, name string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		var all int
		if err := chromedp.Run(ctx, chromedp.Evaluate(controls+`[0].focus(), `+controls+`.length`, &all),
			chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(input.ModifierShift))); err != nil {
			return err
		}
		reached := map[int]bool{}
		last := -1
		for i := range 2 * all { // a field for a time has several places of its own
			if i > 0 {
				if err := chromedp.Run(ctx, chromedp.KeyEvent(kb.Tab)); err != nil {
					return err
				}
			}
			var at focused
			if err := chromedp.Run(ctx, chromedp.Evaluate(`(() => {
				const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
				return {place: `+controls+`.indexOf(e), text: e.outerHTML,
					visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 1 && box.right > 0 && box.bottom > 0};
			})()`, &at)); err != nil {
				return err
			}
			if at.Place < last {
				break // it has gone round
			}
			require.True(t, at.Visible, "%s: the focus cannot be seen: %.200s", name, at.Text)
			reached[at.Place], last = true, at.Place
			if last == all-1 {
				break
			}
		}
		require.Len(t, reached, all, "%s: not every control is reached by Tab; the last was %d", name, last)
		return nil
	})
}

func TestConsoleByKeyboard(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	job := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "grace": "1h"}`, d.room, time.Now().UnixMilli()))
	console := d.url + root
	run(t, tab, chromedp.Navigate(console+"/sign-in"), has("#token"), tabs(t, "sign-in"), signIn(d))
	for _, path := range []string{"/", "/jobs", "/jobs/" + job, "/jobs/" + job + "/pause", "/rooms", "/room?room=" + d.room, "/room/block?room=" + d.room, "/holds", "/holds/place", "/schedules", "/audit"} {
		run(t, tab, chromedp.Navigate(console+path), has("h1"), tabs(t, path))
	}

	// The first key leads past the navigation.
	var main bool
	run(t, tab, chromedp.Navigate(console+"/jobs"), has("h1"), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter),
		holds(`location.hash === "#main"`), chromedp.Evaluate(`document.activeElement.id === "main"`, &main))
	require.True(t, main)

	// What has the focus keeps it while a followed page changes, and the page changes no more
	// than it must.
	var href string
	run(t, tab, chromedp.Navigate(console+"/"), sees(job),
		chromedp.Evaluate(`document.querySelector("#waiting").same = true, document.querySelector("main a.job").focus()`, nil))
	other := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "grace": "1h"}`, d.room, time.Now().Add(-time.Hour).UnixMilli()))
	run(t, tab, sees(other), chromedp.Evaluate(`document.activeElement.getAttribute("href")`, &href), holds(`document.querySelector("#waiting").same === true`))
	require.Equal(t, root+"/jobs/"+job, href)

	// So does a button that copies. It says that it has copied until its time is over, which does
	// not come here, although the page changes.
	const button = `document.querySelector("[data-copies]")`
	run(t, tab, chromedp.KeyEvent(kb.Enter), has(".headline .scheduled"), has("[data-copies]"), chromedp.Evaluate(button+`.same = true, `+button+`.focus(), window.setTimeout = () => 0`, nil),
		chromedp.KeyEvent(kb.Enter), holds(button+`.textContent !== "Copy"`))
	d.post(t, "/jobs/"+job+"/priority", `{"queue": "low", "reason": "it can wait"}`)
	run(t, tab, sees("it can wait"), holds(button+`.same && document.activeElement === `+button+` && /^(Copied|Not allowed)$/.test(`+button+`.textContent)`),
		chromedp.Evaluate(`(() => {
			const part = document.querySelector("[data-live]"), next = part.cloneNode(true);
			for (const copy of next.querySelectorAll(".copy")) copy.remove();
			show(part, "<section>A new section</section>" + next.innerHTML);
		})()`, nil), holds(`document.activeElement.dataset.copies === "`+job+`"`))
	run(t, tab, chromedp.Navigate(console+"/"), sees(job), chromedp.Evaluate(`document.querySelector('main a.job[href$="`+job+`"]').focus()`, nil))

	// A page that asks is answered by Enter alone: the field, and the button.
	run(t, tab, chromedp.KeyEvent(kb.Enter), has(".headline .scheduled"), chromedp.Focus(`a[href$="/cancel"]`), chromedp.KeyEvent(kb.Enter), has("#reason"),
		chromedp.Focus("#reason"), chromedp.KeyEvent("by hand"), chromedp.KeyEvent(kb.Enter), sees("The job is cancelled."), ends("cancelled"), sees("by hand"))
}

// What a screen reader finds its way by. What changes by itself must not be read again and
// again.
func TestConsoleForScreenReaders(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	run(t, tab, signIn(d))
	job := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "delete_local_events": true}`, d.room, time.Now().Add(-time.Hour).UnixMilli()))
	run(t, tab, chromedp.Navigate(d.url+root+"/jobs/"+job), ends("complete"))
	for _, path := range []string{"/", "/jobs", "/jobs/" + job, "/rooms", "/room?room=" + d.room, "/holds", "/schedules", "/audit"} {
		run(t, tab, chromedp.Navigate(d.url+root+path), has("h1"))
		for what, condition := range map[string]string{
			"one heading of the page": `document.querySelectorAll("h1").length === 1`,
			"its landmarks":           `["header", "main", "footer", "nav[aria-label]"].every((s) => document.querySelectorAll("body > " + s + ", header > " + s).length === 1)`,
			"its language":            `document.documentElement.lang === "en"`,
			"where it is":             `document.querySelectorAll("nav [aria-current=page]").length === 1`,
			"names of pictures":       `[...document.querySelectorAll("svg:not([aria-hidden=true])")].every((e) => e.getAttribute("role") === "img" && e.getAttribute("aria-label").length > 20)`,
			"names of bars":           `[...document.querySelectorAll("progress")].every((e) => e.getAttribute("aria-label"))`,
			"names of tables' cells":  `[...document.querySelectorAll("thead th")].every((e) => e.scope === "col" && e.textContent.trim())`,
			"sections by headings":    `[...document.querySelectorAll("section")].every((e) => e.ariaLabel || document.getElementById(e.getAttribute("aria-labelledby")))`,
			"one live region":         `document.querySelectorAll("[data-live] [role=status], [data-live][aria-live], [data-live] [aria-live]").length === 0`,
		} {
			var holds bool
			run(t, tab, chromedp.Evaluate(condition, &holds))
			require.True(t, holds, "%s: %s", path, what)
		}
	}
}

func TestConsoleAfterTheSession(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	console := d.url + root

	// The token is revoked: a followed page says so, and the next page asks for another token
	// and then is there.
	run(t, tab, signIn(d))
	d.sql(t, `UPDATE access_tokens SET token = 'other' WHERE token = '`+d.token+`'`)
	run(t, tab, sees("Your session has ended. Sign in again to go on."), click("Holds"), has("#token"), chromedp.SendKeys("#token", "other\r", chromedp.ByID), sees("No room is held."))

	// After signing out, the browser shows no page again that it has kept.
	run(t, tab, chromedp.Navigate(console+"/rooms"), sees(d.room), click("Sign out"), sees("You have signed out."), chromedp.NavigateBack(), has("#token"))
	var text string
	run(t, tab, chromedp.Text("body", &text))
	require.NotContains(t, text, d.room)
}

// A browser has six connections to a server by HTTP/1.1. Pages that are followed must not
// take them all.
func TestConsoleInManyTabs(t *testing.T) {
	t.Parallel()
	first := browser(t)
	d := start(t)
	run(t, first, signIn(d))
	for range 8 {
		tab, cancel := chromedp.NewContext(first)
		defer cancel()
		run(t, tab, chromedp.Navigate(d.url+root+"/"), has("#running"))
	}
	run(t, first, click("Jobs"), sees("No job matches."))
}

// A followed page says that it is not live, and goes on by itself.
func TestConsoleThroughAnOutage(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	run(t, tab, signIn(d), sees("No job waits."))
	other, cancel := chromedp.NewContext(tab)
	defer cancel()
	d.signal(t, syscall.SIGSTOP)
	run(t, other, chromedp.Navigate(d.url+root+"/jobs"), sees("Redis, which has the sessions, cannot be reached."), sees("Start Redis and reload this page"))
	run(t, tab, sees("This page is not live at the moment. It tries again by itself."))
	d.signal(t, syscall.SIGCONT)
	run(t, tab, holds(`document.querySelector("[data-live-note]").hidden`))
	job := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "grace": "1h"}`, d.room, time.Now().UnixMilli()))
	run(t, tab, sees(job))
	run(t, other, chromedp.Reload(), sees("purge history"))
}
