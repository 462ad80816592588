package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"

	"lethe/internal/terminal"
)

// Encode returns a document as JSON or YAML, safe for a terminal.
func Encode(document any, format string) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(document); err != nil {
		return nil, err
	}
	if format == "yaml" {
		// YAML can read JSON. This keeps the names and the order of the fields.
		var node yaml.Node
		if err := yaml.Unmarshal(terminal.Document(text.Bytes()), &node); err != nil { // it takes no control characters
			return nil, err
		}
		restyle(&node)
		text.Reset()
		encoder := yaml.NewEncoder(&text)
		encoder.SetIndent(2)
		if err := encoder.Encode(&node); err != nil {
			return nil, err
		}
		if err := encoder.Close(); err != nil {
			return nil, err
		}
	}
	return terminal.Document(text.Bytes()), nil
}

// restyle makes a node that was read from JSON look like YAML.
func restyle(node *yaml.Node) {
	node.Style = 0
	if node.Kind == yaml.ScalarNode && terminal.HasUnsafe(node.Value) {
		node.Style = yaml.DoubleQuotedStyle
	}
	for _, below := range node.Content {
		restyle(below)
	}
}

// Rows prints a table. Each cell is made safe.
func Rows(w io.Writer, head []string, lines [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range append([][]string{head}, lines...) {
		cells := make([]string, len(line))
		for i, cell := range line {
			cells[i] = terminal.Text(cell)
		}
		_, _ = fmt.Fprintln(table, strings.Join(cells, "\t")) // Flush returns its error
	}
	return table.Flush()
}

// Fields prints names and values, and leaves out empty values.
func Fields(w io.Writer, pairs ...string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] != "" {
			_, _ = fmt.Fprintf(table, "%s\t%s\n", pair[0], terminal.Text(pair[1])) // Flush returns its error
		}
	}
	return table.Flush()
}

// Raw prints a document whose fields this program does not know: fields with one value
// first, and a table for each object or list of objects. It leaves out the fields with
// the names.
func Raw(w io.Writer, document json.RawMessage, without ...string) error {
	var compact bytes.Buffer
	if err := json.Compact(&compact, document); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	var node yaml.Node
	if err := yaml.Unmarshal(terminal.Document(compact.Bytes()), &node); err != nil { // it takes no control characters
		return fmt.Errorf("print the answer: %w", err)
	}
	if len(node.Content) == 0 || node.Content[0].Kind != yaml.MappingNode {
		return errors.New("print the answer: it is no object")
	}
	object := node.Content[0]
	leavesOut := func(pair []*yaml.Node) bool { return slices.Contains(without, pair[0].Value) }
	var pairs []string
	for pair := range slices.Chunk(object.Content, 2) {
		if isPlain(pair[1]) && !leavesOut(pair) {
			pairs = append(pairs, heading(pair[0].Value), plain(object, pair[0].Value, pair[1]))
		}
	}
	if err := Fields(w, pairs...); err != nil {
		return err
	}
	for pair := range slices.Chunk(object.Content, 2) {
		if isPlain(pair[1]) || len(pair[1].Content) == 0 || leavesOut(pair) {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s\n", terminal.Text(heading(pair[0].Value))); err != nil {
			return err
		}
		if err := nested(w, pair[1]); err != nil {
			return err
		}
	}
	return nil
}

// nested prints an object of objects, or a list of objects, as a table.
func nested(w io.Writer, node *yaml.Node) error {
	type line struct {
		name   string
		object *yaml.Node
	}
	var lines []line
	if node.Kind == yaml.SequenceNode {
		for _, object := range node.Content {
			lines = append(lines, line{object: object})
		}
	} else {
		for pair := range slices.Chunk(node.Content, 2) {
			lines = append(lines, line{pair[0].Value, pair[1]})
		}
	}
	var columns []string
	for _, line := range lines {
		if line.object.Kind != yaml.MappingNode {
			continue
		}
		for pair := range slices.Chunk(line.object.Content, 2) {
			if !slices.Contains(columns, pair[0].Value) {
				columns = append(columns, pair[0].Value)
			}
		}
	}
	head, table := []string{}, [][]string{}
	if node.Kind == yaml.MappingNode {
		head = append(head, "NAME")
	}
	for _, column := range columns {
		head = append(head, strings.ToUpper(heading(column)))
	}
	if len(columns) == 0 {
		head = append(head, "VALUE")
	}
	for _, line := range lines {
		var cells []string
		if node.Kind == yaml.MappingNode {
			cells = append(cells, line.name)
		}
		if len(columns) == 0 {
			cells = append(cells, plain(nil, "", line.object))
		}
		for _, column := range columns {
			cell := ""
			for pair := range slices.Chunk(line.object.Content, 2) {
				if line.object.Kind == yaml.MappingNode && pair[0].Value == column {
					cell = plain(line.object, column, pair[1])
				}
			}
			cells = append(cells, cell)
		}
		table = append(table, cells)
	}
	return Rows(w, head, table)
}

// isPlain reports whether a value fits in a cell: a scalar, or a list of scalars.
func isPlain(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode || node.Kind == yaml.SequenceNode && len(node.Content) > 0 && node.Content[0].Kind == yaml.ScalarNode
}

// plain returns a value of an object as the text of a cell. Times and sizes are for
// people. An estimate begins with "~".
func plain(object *yaml.Node, name string, node *yaml.Node) string {
	switch {
	case node.Tag == "!!null":
		return ""
	case node.Kind == yaml.SequenceNode:
		var values []string
		for _, value := range node.Content {
			values = append(values, value.Value)
		}
		return strings.Join(values, ", ")
	case node.Kind != yaml.ScalarNode:
		return Counted(len(node.Content)/2, "field")
	}
	text := node.Value
	var n int64
	if node.Tag == "!!int" && node.Decode(&n) == nil {
		switch {
		case strings.HasSuffix(name, "_ts"):
			return At(n)
		case strings.HasSuffix(name, "bytes"):
			text = Size(n)
		}
	}
	var f float64
	if node.Tag == "!!float" && node.Decode(&f) == nil {
		text = Fraction(f)
	}
	if isEstimate(object, name, node) {
		return "~" + text
	}
	return text
}

// isEstimate reports whether a value of an object is a number that was estimated: the
// name says so, or the object does of all its numbers.
func isEstimate(object *yaml.Node, name string, node *yaml.Node) bool {
	if node.Tag != "!!int" && node.Tag != "!!float" {
		return false
	}
	if strings.HasPrefix(name, "estimated_") {
		return true
	}
	if object == nil || object.Kind != yaml.MappingNode {
		return false
	}
	for pair := range slices.Chunk(object.Content, 2) {
		if pair[0].Value == "exact" && pair[1].Value == "false" {
			return true
		}
	}
	return false
}

// heading returns the name of a field for people.
func heading(name string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(name, "_ts"), "_id"), "_", " ")
}

// At returns a time in UTC, "" for none.
func At(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(time.DateTime)
}

// Size returns a number of bytes with a unit.
func Size(n int64) string {
	value, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	unit := 0
	for value >= 1000 && unit < len(units)-1 {
		value /= 1000
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
