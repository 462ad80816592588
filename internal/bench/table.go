package bench

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"
)

// A Table is the result of a benchmark.
type Table struct {
	// Schema describes the tables that were measured.
	Schema string `json:"schema"`

	// PostgreSQL is the version and the settings of the server.
	PostgreSQL string `json:"postgresql"`

	// Runs is how often each value was measured.
	Runs int `json:"runs"`

	// Sizes are the numbers of what was created, by the name of their flag.
	Sizes map[string]int `json:"sizes"`

	Rows []Row `json:"rows"`
}

// A Row compares a subject with its reference.
type Row struct {
	Case      string `json:"case"`
	Measure   string `json:"measure"`
	Subject   Sample `json:"subject"`
	Reference Sample `json:"reference"`

	// Ratio is the subject's median divided by the reference's.
	Ratio float64 `json:"ratio"`

	// Goal is what the ratio should be. It is for the reader. Empty without a goal.
	Goal string `json:"goal,omitempty"`
}

// A Sample is the values of one thing, one for each run.
type Sample struct {
	Name   string    `json:"name"`
	Median float64   `json:"median"`
	Values []float64 `json:"values"`
}

// sample returns a Sample of the values.
func sample(name string, values []float64) Sample {
	return Sample{Name: name, Median: quantile(values, 0.5), Values: values}
}

// measurements are the values of a case, by measure and by the name of what was measured:
// one for each run.
type measurements map[string]map[string][]float64

// add adds the value of a run.
func (m measurements) add(measure, name string, value float64) {
	if m[measure] == nil {
		m[measure] = map[string][]float64{}
	}
	m[measure][name] = append(m[measure][name], value)
}

// compare returns a row that compares two samples of a measure. The case is set later.
func (m measurements) compare(measure, subject, reference, goal string) Row {
	row := Row{
		Measure: measure, Goal: goal,
		Subject: sample(subject, m[measure][subject]), Reference: sample(reference, m[measure][reference]),
	}
	if row.Reference.Median != 0 { // JSON cannot represent infinity
		row.Ratio = row.Subject.Median / row.Reference.Median
	}
	return row
}

// quantile returns the smallest value such that a share q of the values is not larger.
// It returns 0 without values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// Print writes the table as text.
func (t Table) Print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%s, PostgreSQL %s, medians of %d\n\n", t.Schema, t.PostgreSQL, t.Runs); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	// Flush returns the first error of the tab writer.
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(columns, "case\tmeasure\tsubject\t\treference\t\tratio\tgoal")
	for _, r := range t.Rows {
		_, _ = fmt.Fprintf(columns, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Case, r.Measure,
			r.Subject.Name, short(r.Subject.Median), r.Reference.Name, short(r.Reference.Median), short(r.Ratio), r.Goal)
	}
	if err := columns.Flush(); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	return nil
}

// short formats a number with three significant digits.
func short(value float64) string {
	if math.Abs(value) >= 100 {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strconv.FormatFloat(value, 'g', 3, 64)
}
