package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const measured = `{"rows": [
	{"case": "purge", "measure": "time, s", "subject": {"name": "set-wise", "median": 4}, "reference": {"name": "plain SQL", "median": 24}},
	{"case": "growth", "measure": "purge by events, ms", "subject": {"name": "20000 events", "median": 900}, "reference": {"name": "2000 events", "median": 400}},
	{"case": "growth", "measure": "purge by events, ms", "subject": {"name": "200000 events", "median": 6000}, "reference": {"name": "2000 events", "median": 400}},
	{"case": "growth", "measure": "claim by jobs, ms", "subject": {"name": "100 jobs", "median": 0.25}, "reference": {"name": "10 jobs", "median": 0.5}}
]}`

func pictureOf(t *testing.T, table string) (string, error) {
	t.Helper()
	from, to := filepath.Join(t.TempDir(), "in.json"), filepath.Join(t.TempDir(), "out.svg")
	if err := os.WriteFile(from, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(from, to); err != nil {
		return "", err
	}
	picture, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	return string(picture), nil
}

func TestPicture(t *testing.T) {
	t.Parallel()
	picture, err := pictureOf(t, measured)
	if err != nil {
		t.Fatal(err)
	}
	var texts strings.Builder
	decoder := xml.NewDecoder(strings.NewReader(picture))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal("the picture is not XML:", err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts.WriteString(string(text) + "\n")
		}
	}
	for _, want := range []string{
		"by the number of events", "2,000", "200,000", "purge: 400 ms, then 6 s",
		"by the number of jobs", "claim: 0.5 ms, then 0.25 ms", "O(n)", "O(1)",
	} {
		if !strings.Contains(texts.String(), want) {
			t.Errorf("the picture does not say %q", want)
		}
	}
	for _, not := range []string{"set-wise", "plain SQL"} {
		if strings.Contains(texts.String(), not) {
			t.Errorf("the picture says %q", not)
		}
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for wrong, change := range map[string]*strings.Replacer{
		"no case growth":       strings.NewReplacer(`"growth"`, `"purge"`),
		"positive number":      strings.NewReplacer("6000", "0"),
		"does not say by what": strings.NewReplacer("claim by jobs", "claim"),
		"at every size":        strings.NewReplacer("claim by jobs", "claim by events"),
	} {
		if _, err := pictureOf(t, change.Replace(measured)); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("want an error that says %q, got %v", wrong, err)
		}
	}
}
