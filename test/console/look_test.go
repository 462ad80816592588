package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// widths are those of a desk and of a phone, and themes what a system may prefer.
var (
	widths = []int64{1280, 390}
	themes = []string{"light", "dark"}
)

// checker is the script of axe-core, which finds what keeps people from using a page. It is
// empty if axe-core is not installed.
var checker = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
})

// views calls look for the tab's page in both themes and widths.
func views(look func(ctx context.Context, width int64, theme string) error) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		for _, width := range widths {
			for _, theme := range themes {
				if err := chromedp.Run(ctx,
					chromedp.EmulateViewport(width, 800),
					emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
				); err != nil {
					return err
				}
				if err := look(ctx, width, theme); err != nil {
					return err
				}
			}
		}
		return chromedp.Run(ctx, chromedp.EmulateViewport(1280, 800))
	})
}

// picture takes pictures of a page in both themes and widths, into the folder that
// LETHE_TEST_PICTURES names. No page is wider than the window.
func picture(t *testing.T, name string) chromedp.Action {
	folder := os.Getenv("LETHE_TEST_PICTURES")
	return views(func(ctx context.Context, width int64, theme string) error {
		var wide int64
		if err := chromedp.Evaluate(`document.documentElement.scrollWidth`, &wide).Do(ctx); err != nil {
			return err
		}
		if wide > width {
			t.Errorf("%s is %d wide in a window of %d", name, wide, width)
		}
		if folder == "" {
			return nil
		}
		var png []byte
		if err := chromedp.Run(ctx, chromedp.FullScreenshot(&png, 100)); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(folder, fmt.Sprintf("%s-%d-%s.png", name, width, theme)), png, 0o600)
	})
}

// A violation is what axe-core complains about.
type violation struct {
	ID    string `json:"id"`
	Help  string `json:"help"`
	Nodes []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// accessible lets axe-core check a page in both themes and widths.
func accessible(t *testing.T, name string) chromedp.Action {
	script, err := checker()
	require.NoError(t, err)
	return views(func(ctx context.Context, width int64, theme string) error {
		if script == "" {
			return nil
		}
		var found string
		if err := chromedp.Run(ctx,
			chromedp.Evaluate(script+";0", nil),
			chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations"]}).then((r) => JSON.stringify(r.violations))`, &found,
				func(p *cdpruntime.EvaluateParams) *cdpruntime.EvaluateParams { return p.WithAwaitPromise(true) }),
		); err != nil {
			return err
		}
		var violations []violation
		if err := json.Unmarshal([]byte(found), &violations); err != nil {
			return err
		}
		for _, v := range violations {
			for _, node := range v.Nodes {
				t.Errorf("%s, %d, %s: %s (%s): %.300s: %s", name, width, theme, v.Help, v.ID, node.HTML, node.Summary)
			}
		}
		return nil
	})
}
