package config

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
