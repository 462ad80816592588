package cli

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

	"lethe/internal/command"
	"lethe/internal/matrix"
	"lethe/internal/operator"
	"lethe/internal/output"
	"lethe/internal/store/migrate"
)

const (
	// holdFormat is the version of the form of a holdFile.
	holdFormat = 1

	// maxHoldFile is the size of the largest file that is read, in bytes.
	maxHoldFile = 64 << 20
)

// errHoldFile is returned for a file that no export has written, or that was changed.
var errHoldFile = errors.New("it is not a file of lethe hold export, or it was changed")

// A holdFile is what lethe hold export writes.
type holdFile struct {
	Format   int             `json:"lethe_holds"`
	Exported int64           `json:"exported_ts"`
	Holds    []operator.Hold `json:"holds"`

	// Digest is over the other fields. It finds a file that was cut off or edited, and
	// does not prove who has written it.
	Digest string `json:"digest"`
}

// newHoldFile returns the file with the holds.
func newHoldFile(holds []operator.Hold) holdFile {
	f := holdFile{Format: holdFormat, Exported: time.Now().UnixMilli(), Holds: append([]operator.Hold{}, holds...)}
	f.Digest = f.digest()
	return f
}

// digest returns the digest that the file should have.
func (f holdFile) digest() string {
	f.Digest = ""
	text, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("cli: a hold is no JSON: %v", err)) // it has only texts and numbers
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// standing returns the holds that were not lifted.
func (f holdFile) standing() (holds []operator.Hold) {
	for _, hold := range f.Holds {
		if hold.ReleasedAt == 0 {
			holds = append(holds, hold)
		}
	}
	return holds
}

func (f holdFile) write(w io.Writer) error {
	text, err := output.Encode(f, "json")
	if err != nil {
		return fmt.Errorf("export the holds: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// writeFile writes the file so that it is there as a whole or not at all. Only its owner
// may read it, because reasons are confidential.
func (f holdFile) writeFile(path string, overwrite bool) (err error) {
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
	if err := errors.Join(f.write(out), out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// readHoldFile reads an exported file, and refuses one that was changed.
func readHoldFile(path string) (f holdFile, err error) {
	fail := func(err error) (holdFile, error) { return holdFile{}, fmt.Errorf("read %s: %w", path, err) }
	text, err := readFile(path, maxHoldFile)
	if err != nil {
		return fail(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return fail(fmt.Errorf("%w: %w", errHoldFile, err))
	}
	switch {
	case f.Format != holdFormat:
		return fail(fmt.Errorf("%w: its format is %d and not %d", errHoldFile, f.Format, holdFormat))
	case f.Digest != f.digest():
		return fail(fmt.Errorf("%w: its digest differs", errHoldFile))
	}
	for _, hold := range f.Holds {
		if !matrix.ValidRoomID(hold.Room) || hold.Reason == "" {
			return fail(fmt.Errorf("%w: a hold has no room or no reason", errHoldFile))
		}
	}
	return f, nil
}

// exportedHolds returns the holds of an exported file for package migrate. Without a file
// it returns none.
func exportedHolds(path string) ([]migrate.Hold, error) {
	if path == "" {
		return nil, nil
	}
	file, err := readHoldFile(path)
	if err != nil {
		return nil, &command.StatusError{Status: command.BadUsage, Err: err}
	}
	var holds []migrate.Hold
	for _, hold := range file.standing() {
		holds = append(holds, migrate.Hold{Room: hold.Room, Reason: hold.Reason})
	}
	return holds, nil
}
