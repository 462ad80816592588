package gobench

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"lethe/internal/bench"
)

// A unit is how a value of a measure is written.
type unit struct {
	name  string
	times float64
}

// units are the units in which measures end, after a comma.
var units = map[string]unit{
	"s":     {"sec", 1},
	"ms":    {"sec", 1e-3},
	"bytes": {"B", 1},
	"MB":    {"B", 1 << 20},
}

// unitOf returns what is measured and in which unit.
func unitOf(measure string) (what string, u unit) {
	if i := strings.LastIndex(measure, ", "); i >= 0 {
		if u, ok := units[measure[i+2:]]; ok {
			return measure[:i], u
		}
	}
	if strings.Contains(measure, "per second") || strings.Contains(measure, "per CPU second") {
		return measure, unit{"/s", 1}
	}
	return measure, unit{"number", 1}
}

// Write writes a line for each value of the table, and one for the ratio of each run. The
// value of a sample that several rows name is written once.
func Write(w io.Writer, table bench.Table) error {
	out := bufio.NewWriter(w) // Flush returns its first error
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	line("schema: %s", oneLine(table.Schema))
	for _, name := range slices.Sorted(maps.Keys(table.Sizes)) {
		line("%s: %d", name, table.Sizes[name])
	}
	line("")
	written := map[string]bool{}
	for _, row := range table.Rows {
		what, u := unitOf(row.Measure)
		benchmark := "Benchmark" + capital(name(row.Case)) + "/" + name(what) + "/"
		for _, sample := range []bench.Sample{row.Reference, row.Subject} {
			as := benchmark + name(sample.Name)
			if written[as] {
				continue
			}
			written[as] = true
			for _, value := range sample.Values {
				line("%s 1 %s %s", as, number(value*u.times), u.name)
			}
		}
		if len(row.Subject.Values) != len(row.Reference.Values) {
			continue
		}
		for i, value := range row.Subject.Values {
			if reference := row.Reference.Values[i]; reference != 0 {
				line("%s%s:%s 1 %s ratio", benchmark, name(row.Subject.Name), name(row.Reference.Name), number(value/reference))
			}
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the benchmarks: %w", err)
	}
	return nil
}

var unnamable = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// name returns a part of a benchmark's name.
func name(text string) string { return strings.Trim(unnamable.ReplaceAllString(text, "_"), "_") }

func capital(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func number(value float64) string { return strconv.FormatFloat(value, 'g', -1, 64) }
