package postgres

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Storable reports whether PostgreSQL can hold the text. If it cannot, no row has
// the text, and a query for it fails.
func Storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// OnlyStorable returns the texts that PostgreSQL can hold. An id from the JSON of an
// event may be any text.
func OnlyStorable(texts []string) []string {
	storable := make([]string, 0, len(texts))
	for _, text := range texts {
		if Storable(text) {
			storable = append(storable, text)
		}
	}
	return storable
}

// Sanitize replaces whatever PostgreSQL cannot hold by U+FFFD.
func Sanitize(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// Milliseconds formats a timeout for PostgreSQL's settings.
func Milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
