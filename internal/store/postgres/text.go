package postgres

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Storable reports whether PostgreSQL can hold the text. No row has a text that it
// cannot hold, and a query for one fails.
func Storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// OnlyStorable returns those of the texts that PostgreSQL can hold. Ids that come
// from the JSON of events may be any text.
func OnlyStorable(texts []string) []string {
	storable := make([]string, 0, len(texts))
	for _, text := range texts {
		if Storable(text) {
			storable = append(storable, text)
		}
	}
	return storable
}

// Sanitize replaces what PostgreSQL cannot hold in a text by U+FFFD.
func Sanitize(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// Milliseconds writes a timeout in the form that PostgreSQL's settings take.
func Milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
