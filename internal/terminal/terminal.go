package terminal

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/term"
)

// Is reports whether a stream is a terminal.
func Is(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Text returns a text that is safe to print, in one line: characters that cannot be seen
// are escaped as in Go, such as \n or \x1b.
func Text(text string) string {
	if !strings.ContainsFunc(text, isUnsafe) {
		return text
	}
	var safe strings.Builder
	for _, r := range text {
		if isUnsafe(r) {
			quoted := strconv.QuoteRuneToGraphic(r)
			safe.WriteString(quoted[1 : len(quoted)-1])
		} else {
			safe.WriteRune(r)
		}
	}
	return safe.String()
}

// Lines is [Text] for a text of several lines.
func Lines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = Text(line)
	}
	return strings.Join(lines, "\n")
}

// Short is [Text] with at most n characters. A longer text ends with an ellipsis.
func Short(text string, n int) string {
	runes := []rune(Text(text))
	if len(runes) <= n {
		return string(runes)
	}
	return string(runes[:max(n-1, 0)]) + "…"
}

// Document returns a document in JSON, or one in YAML whose unsafe strings are in double
// quotes, with the unsafe characters of its strings escaped. The document means the same.
func Document(text []byte) []byte {
	var safe bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r == '\n' || !isUnsafe(r):
			safe.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&safe, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&safe, `\u%04x`, r)
		}
	}
	return safe.Bytes()
}

// HasUnsafe reports whether [Text] would change a text.
func HasUnsafe(text string) bool { return strings.ContainsFunc(text, isUnsafe) }

// isUnsafe reports whether a character cannot be seen.
func isUnsafe(r rune) bool { return !unicode.IsGraphic(r) }
