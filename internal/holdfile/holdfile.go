package holdfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/operator"
	"lethe/internal/output"
)

const (
	// format is the version of the form of a File.
	format = 1

	// MaxBytes is the size of the largest file that should be read, in bytes.
	MaxBytes = 64 << 20
)

// ErrNotExported is returned for a file that no export has written, or that was changed.
var ErrNotExported = errors.New("it is not a file of lethe hold export, or it was changed")

// A File is what lethe hold export writes.
type File struct {
	Format   int             `json:"lethe_holds"`
	Exported int64           `json:"exported_ts"`
	Holds    []operator.Hold `json:"holds"`

	// Digest is over the other fields. It finds a file that was cut off or edited, and
	// does not prove who has written it.
	Digest string `json:"digest"`
}

// New returns the file with the holds.
func New(holds []operator.Hold) File {
	f := File{Format: format, Exported: time.Now().UnixMilli(), Holds: append([]operator.Hold{}, holds...)}
	f.Digest = f.digest()
	return f
}

// digest returns the digest that the file should have.
func (f File) digest() string {
	f.Digest = ""
	text, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("holdfile: a hold is no JSON: %v", err)) // it has only texts and numbers
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Standing returns the holds that were not lifted.
func (f File) Standing() (holds []operator.Hold) {
	for _, hold := range f.Holds {
		if hold.ReleasedAt == 0 {
			holds = append(holds, hold)
		}
	}
	return holds
}

// Write writes the file's JSON.
func (f File) Write(w io.Writer) error {
	text, err := output.Encode(f, "json")
	if err != nil {
		return fmt.Errorf("export the holds: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// WriteFile writes the file to a path. It fails if something is there, unless it may
// overwrite it.
func (f File) WriteFile(path string, overwrite bool) (err error) {
	if _, err := os.Lstat(path); err == nil && !overwrite {
		return fmt.Errorf("export the holds: %s exists: --overwrite replaces it", path)
	}
	part := path + ".part"
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("export the holds: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part) // the error says what is wrong
			err = fmt.Errorf("export the holds: %w", err)
		}
	}()
	if err := errors.Join(f.Write(out), out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// Parse reads an exported file. It fails with [ErrNotExported] if the file was changed.
func Parse(text []byte) (f File, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return File{}, fmt.Errorf("%w: %w", ErrNotExported, err)
	}
	switch {
	case f.Format != format:
		return File{}, fmt.Errorf("%w: its format is %d and not %d", ErrNotExported, f.Format, format)
	case f.Digest != f.digest():
		return File{}, fmt.Errorf("%w: its digest differs", ErrNotExported)
	}
	for _, hold := range f.Holds {
		if !matrix.ValidRoomID(hold.Room) || hold.Reason == "" {
			return File{}, fmt.Errorf("%w: a hold has no room or no reason", ErrNotExported)
		}
	}
	return f, nil
}
