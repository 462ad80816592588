package console

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

func TestConsoleInABrowser(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	console := d.url + root + "/"

	// A wrong token, and then the right one. The browser takes the cookie over plain HTTP from
	// this machine, and no script can read it.
	var address, title, readable string
	run(t, tab,
		chromedp.Navigate(console+"jobs?state=failed"),
		chromedp.Location(&address),
		picture(t, "demo-sign-in"),
		chromedp.SendKeys("#token", "wrong\r", chromedp.ByID),
		sees("Invalid access token passed."),
		picture(t, "demo-wrong-token"),
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
		chromedp.Evaluate(`document.querySelector("footer time").title`, &zone), picture(t, "demo-overview-waiting"))
	require.Equal(t, "the same page", same)
	require.Regexp(t, ` UTC$`, zone)

	// Cancel it, after a page that asks. A second tab follows the job.
	other, cancel := chromedp.NewContext(tab)
	defer cancel()
	watch(t, other)
	run(t, other, chromedp.Navigate(console+"jobs/"+job), sees("scheduled"))
	run(t, tab,
		click(job), sees("<b>tidy</b>"), picture(t, "demo-job-waiting"),
		click("Cancel …"), sees("What is deleted stays deleted"), picture(t, "demo-cancel"),
		chromedp.SendKeys("#reason", "not today"), click("Cancel the job"),
		sees("The job is cancelled."), ends("cancelled"), sees("not today"), picture(t, "demo-job-cancelled"),
	)
	run(t, other, ends("cancelled"))

	// Retry it, which leaves its grace as it was. Another job has a short one: watch it to its
	// end without a hand.
	run(t, other, sees("Retry …"))
	run(t, tab, click("Retry …"), has("#reason"), click("Retry"), sees("The job goes on when its turn comes."), has(".headline .scheduled"))
	job = d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "delete_local_events": true, "grace": "3s"}`,
		d.room, time.Now().Add(-2*time.Hour).UnixMilli()))
	run(t, tab, chromedp.Navigate(console+"jobs/"+job), has(".headline .scheduled"))
	run(t, other, chromedp.Navigate(console), sees(job))
	run(t, tab, ends("complete"), sees("event_json"), picture(t, "demo-job-complete"))
	run(t, other, has(".plot rect"), sees("No job runs."))
	run(t, tab, click("Overview"), has(".plot rect"), picture(t, "demo-overview"), click("Jobs"), sees(job), picture(t, "demo-jobs"))

	// What the job refuses now is said, and nothing is offered.
	run(t, tab, chromedp.Navigate(console+"jobs/"+job+"/cancel"), sees("The job cannot be cancelled"), picture(t, "demo-refused"),
		chromedp.Navigate(console+"jobs/AAAAAAAAAAAAAAAA"), sees("There is no job"), picture(t, "demo-not-found"))

	// Hold a room, and see that its purge waits; lift the hold.
	run(t, tab, click("Rooms"), sees("State groups"), picture(t, "demo-rooms"), chromedp.Navigate(console+"room?room="+url.QueryEscape(d.room)), picture(t, "demo-room"),
		click("hold it …"), has("#reason"), chromedp.SendKeys("#reason", "Court order 7"), picture(t, "demo-hold"), click("Hold the room"),
		sees("The room is held."), sees("Court order 7"), picture(t, "demo-holds"),
		click("Lift …"), sees("gone for ever"), picture(t, "demo-lift"), click("Lift the hold"), sees("No room is held."))

	// Plan and apply.
	run(t, tab, chromedp.Navigate(console+"room?room="+url.QueryEscape(d.room)), has("#local"), chromedp.SetAttributeValue("#before", "value", "2030-01-31T12:00"),
		clickOn("#local"), click("Show the plan"), sees("are deleted"), picture(t, "demo-plan"), click("Purge the history"), sees("The job is accepted."), ends("complete"))

	// Sign out in one tab: the other has no session either.
	run(t, other, chromedp.Navigate(console), sees("No job runs."))
	run(t, tab, click("Sign out"), sees("You have signed out."))
	run(t, other, sees("Your session has ended. Sign in again to go on."), chromedp.Reload(), has("#token"))
}

func TestConsoleWithoutAScript(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	d := start(t)
	run(t, tab, emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(d.url+root+"/"),
		chromedp.SendKeys("#token", d.token+"\r", chromedp.ByID), has("#running"))
	job := d.post(t, "/purges", fmt.Sprintf(`{"room_id": %q, "before_ts": %d, "grace": "1h"}`, d.room, time.Now().UnixMilli()))
	var text string
	run(t, tab, chromedp.Navigate(d.url+root+"/"), chromedp.Text("main", &text), click(job), has(".headline .scheduled"))
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
	page := d.url + root + "/jobs/" + job
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
