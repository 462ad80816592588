package gobench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"lethe/internal/bench"
)

// Files are the paths of files for a result.
type Files struct {
	// JSON is the file for the table as JSON. Defaults to "", no file.
	JSON string

	// Go is the file for each value in Go's format. Defaults to "", no file.
	Go string
}

// Write writes the files. A second call replaces them.
func (f Files) Write(table bench.Table) error {
	text, err := json.MarshalIndent(table, "", "\t")
	if err != nil {
		return fmt.Errorf("encode the table: %w", err)
	}
	var lines bytes.Buffer
	if err := Write(&lines, table); err != nil {
		return err
	}
	for path, content := range map[string][]byte{f.JSON: append(text, '\n'), f.Go: lines.Bytes()} {
		if path == "" {
			continue
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
	}
	return nil
}
