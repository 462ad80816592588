package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"lethe/internal/output"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// An asset is a file that pages load. Its name has a hash of its contents, so that a browser
// may keep it for ever.
type asset struct {
	kind string
	text []byte
}

var (
	assets, assetNames = loadAssets()
	templates          = loadTemplates()
)

func loadAssets() (byName map[string]asset, names map[string]string) {
	byName, names = map[string]asset{}, map[string]string{}
	for file, kind := range map[string]string{
		"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml",
	} {
		text, err := fs.ReadFile(assetFiles, "assets/"+file)
		if err != nil {
			panic("console: " + err.Error()) // it is in the program
		}
		hash := sha256.Sum256(text)
		extension := path.Ext(file)
		name := strings.TrimSuffix(file, extension) + "." + hex.EncodeToString(hash[:8]) + extension
		byName[name], names[file] = asset{kind, text}, Root+"/static/"+name
	}
	return byName, names
}

// loadTemplates returns the template of each page, with the parts that all pages share.
func loadTemplates() map[string]*template.Template {
	functions := template.FuncMap{
		"asset": func(name string) string { return assetNames[name] },
		"bytes": func(n int64) string { return size(float64(n)) }, "hasSuffix": strings.HasSuffix, "pair": pair, "size": size, "agree": output.Agree[int64], "count": output.Count, "counted": output.Counted[int64], "cut": cut, "iso": iso, "month": month, "number": number, "percent": percent,
		"root": func() string { return Root }, "seconds": seconds,
		"since": since, "spell": spell, "unit": unit, "utc": utc, "word": word,
	}
	shared := template.Must(template.New("").Funcs(functions).ParseFS(templateFiles, "templates/shared_*.html"))
	pages := map[string]*template.Template{}
	for _, name := range []string{"audit", "block", "hold", "holds", "job", "jobs", "overview", "plan", "refusal", "room", "rooms", "schedule", "schedules", "sign_in", "verb"} {
		pages[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, "templates/"+name+".html"))
	}
	return pages
}

// A frame is what all pages have.
type frame struct {
	Title string

	// Here is the page in the navigation that is open.
	Here string

	// Nonce is of the script and the style, and Proof is sent with each form.
	Nonce, Proof string

	// User is who has signed in, "" if nothing has, and Reads says that this user may change
	// nothing.
	User  string
	Reads bool

	// Now is the time of the page.
	Now time.Time
}

// frame returns the frame of a page with the title.
func (v *visit) frame(title string) frame {
	f := frame{Title: title, Nonce: v.nonce, User: v.session.User, Reads: v.reads, Now: time.Now()}
	if f.User != "" {
		f.Proof = v.session.Proof()
	}
	return f
}

// in returns the frame with the open page of the navigation.
func (f frame) in(here string) frame {
	f.Here = here
	return f
}

// render answers with a page.
func (v *visit) render(status int, name string, data any) error {
	text, err := execute(name, "page", data)
	if err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	v.w.WriteHeader(status)
	// It fails only if the connection is broken.
	_, _ = v.w.Write(text)
	return nil
}

// execute returns a part of a page.
func execute(page, part string, data any) ([]byte, error) {
	var text bytes.Buffer
	if err := templates[page].ExecuteTemplate(&text, part, data); err != nil {
		return nil, fmt.Errorf("render the page %s: %w", page, err)
	}
	return text.Bytes(), nil
}

// asset serves a file that pages load. It is the same for all users.
func (c *Console) asset(v *visit) error {
	found, ok := assets[v.r.PathValue("name")]
	if !ok {
		return errNoPage
	}
	h := v.w.Header()
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Type", found.kind)
	h.Set("Content-Length", strconv.Itoa(len(found.text)))
	// It fails only if the connection is broken.
	_, _ = v.w.Write(found.text)
	return nil
}

// timeOf returns a time in Unix milliseconds, or as a time.Time, in UTC.
func timeOf(at any) time.Time {
	switch t := at.(type) {
	case int64:
		if t == 0 {
			return time.Time{}
		}
		return time.UnixMilli(t).UTC()
	case time.Time:
		return t.UTC()
	}
	panic(fmt.Sprintf("console: %T is no time", at))
}

// iso returns a time as the attribute datetime has it, and utc as it is read.
func iso(at any) string { return timeOf(at).Format(time.RFC3339) }
func utc(at any) string { return timeOf(at).Format("2006-01-02 15:04:05 UTC") }

// since returns how long ago a time was, in words that change once a minute: a page that
// is followed is sent again with each change.
func since(now time.Time, at any) string {
	ago := now.Sub(timeOf(at))
	switch {
	case ago < time.Minute:
		return "less than 1 min"
	case ago < time.Hour:
		return fmt.Sprintf("%d min", int(ago.Minutes()))
	}
	return spell(ago)
}

// lasting returns a duration in words, a short one with a decimal place.
func lasting(d time.Duration) string {
	if d < 10*time.Second {
		return strconv.FormatFloat(max(0, d.Seconds()), 'f', 1, 64) + " s"
	}
	return spell(d)
}

// spell returns a duration in words, by its two largest units.
func spell(d time.Duration) string {
	d = max(0, d)
	switch s := int64(d / time.Second); {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	default:
		return fmt.Sprintf("%s d %d h", output.Count(s/86400), s/3600%24)
	}
}

// seconds returns a number of seconds in words. It may be far beyond what a duration holds.
func seconds(s float64) string {
	const most = 1000 * 365 * 24 * 3600
	if !(s < most) {
		return "more than 1,000 years"
	}
	return spell(time.Duration(max(0, s) * float64(time.Second)))
}

// unit returns the word for what jobs of a kind go through.
func unit(kind string) string {
	if strings.HasSuffix(kind, "_sweep") {
		return "room"
	}
	return "event"
}

// number returns a number as people read it: small ones with a decimal place.
func number(n float64) string {
	if n < 10 && n != float64(int64(n)) {
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	if n > 1e15 {
		return strconv.FormatFloat(n, 'g', 3, 64)
	}
	return output.Count(int64(n + 0.5))
}

// month returns the month of a time in UTC.
func month(at time.Time) string { return at.UTC().Format("2006-01") }

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 0, 64) + " %" }

// cut returns the beginning of a text that is too long for a list.
func cut(most int, text string) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most]) + " …"
}

// word returns a name of the API as words.
func word(name string) string { return strings.ReplaceAll(name, "_", " ") }

// untilSeconds returns the whole seconds until a time, at least 1.
func untilSeconds(at time.Time) int { return max(1, int(time.Until(at)/time.Second)) }

// A limit is a limit of a signal, nil for none, with whether it is in bytes.
type limit struct {
	Limit *float64
	Bytes bool
}

func pair(of *float64, bytes bool) limit { return limit{of, bytes} }

// size returns a number of bytes with its unit.
func size(bytes float64) string {
	for _, unit := range []string{"bytes", "KiB", "MiB", "GiB", "TiB"} {
		if bytes < 1024 {
			return number(bytes) + " " + unit
		}
		bytes /= 1024
	}
	return number(bytes) + " PiB"
}
