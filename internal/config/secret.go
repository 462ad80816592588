package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"
)

// A Secret is a text that must not be printed, such as a URL with a password.
// string(s) returns the text. Every format verb, log handler and text encoder
// shows it as "[secret]", or as "" if it is empty.
type Secret string

// String implements [fmt.Stringer].
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString implements [fmt.GoStringer].
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText implements [encoding.TextMarshaler].
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// secretSuffix ends the name of a variable that names the file of a secret.
const secretSuffix = "_FILE"

// loadSecretFile applies a secret from the file that a variable names.
func (l *loader) loadSecretFile(path, name string, variables map[string]string) {
	own := variable(path)
	text, err := readSecret(variables[name])
	if _, both := variables[own]; both {
		err = fmt.Errorf("%s is set too: only one of them may be", own)
	}
	if err != nil {
		l.refuseValue(path, name, err)
		return
	}
	l.set(path, name, text)
}

// readSecret returns the contents of a file, without the line end that editors and
// echo add. Its error does not repeat the path, because an operator may have put
// the secret itself there.
func readSecret(path string) (string, error) {
	if path == "" {
		return "", errors.New("names no file: unset it to go without one")
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		// Reading a pipe or a device may never end.
		return "", errors.New("must name a file, not a folder, pipe or device")
	}
	var data []byte
	if err == nil {
		data, err = readFile(path)
	}
	if broken, ok := errors.AsType[*fs.PathError](err); ok {
		err = broken.Err
	}
	text := string(data)
	switch {
	case err != nil:
		return "", fmt.Errorf("read the file that it names: %w", err)
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return "", errors.New("the file that it names is no text")
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if text == "" {
		return "", errors.New("the file that it names is empty")
	}
	return text, nil
}
