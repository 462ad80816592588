package matrix

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReferences(t *testing.T) {
	t.Parallel()
	key := specKey(t)
	event := message()
	event.ReferenceHashes = map[string]string{"$p": "HP", "$a": "HA", "$other": "HO"}
	for _, version := range allVersions {
		sealed, err := event.Seal(version, "domain", key)
		require.NoError(t, err)
		prev, auth := `"prev_events":["$p"]`, `"auth_events":["$a","$b"]`
		if version == "1" || version == "2" {
			prev, auth = `"prev_events":[["$p",{"sha256":"HP"}]]`, `"auth_events":[["$a",{"sha256":"HA"}],["$b",{}]]`
			require.Contains(t, string(sealed.JSON), `"event_id":"`+sealed.ID+`"`)
		} else {
			require.NotContains(t, string(sealed.JSON), "event_id")
		}
		require.Contains(t, string(sealed.JSON), prev)
		require.Contains(t, string(sealed.JSON), auth)
		ids, hashes, err := References(version, []byte(strings.TrimPrefix(auth, `"auth_events":`)))
		require.NoError(t, err)
		require.Equal(t, []string{"$a", "$b"}, ids)
		if version.HasReferenceHashes() {
			require.Equal(t, map[string]string{"$a": "HA"}, hashes)
		} else {
			require.Empty(t, hashes)
		}

		// The hash does not cover the signatures and what a redaction removes.
		hash, err := ReferenceHash(version, sealed.JSON)
		require.NoError(t, err)
		redacted, err := Redact(version, sealed.JSON)
		require.NoError(t, err)
		again, err := ReferenceHash(version, redacted)
		require.NoError(t, err)
		require.Equal(t, hash, again)
		if version == "3" {
			require.Equal(t, "$"+hash, sealed.ID)
		}
	}
}

func TestReferencesRefuses(t *testing.T) {
	t.Parallel()
	for version, texts := range map[RoomVersion][]string{
		"1":  {``, `{}`, `["$a"]`, `[["$a"]]`, `[["$a",{},{}]]`, `[[1,{}]]`, `[["$a",1]]`, `[["$a",{"sha256":1}]]`},
		"11": {``, `{}`, `[1]`, `[["$a",{}]]`},
	} {
		for _, text := range texts {
			_, _, err := References(version, []byte(text))
			require.Error(t, err, text)
		}
	}
	for _, raw := range []string{``, `{}`, `{"type":"t","content":{},"depth":1e400}`} {
		_, err := ReferenceHash("1", []byte(raw))
		require.Error(t, err, raw)
	}
}

// In the versions 1 and 2 the id is a key of the event.
func TestChosenIDs(t *testing.T) {
	t.Parallel()
	for _, version := range []RoomVersion{"1", "2"} {
		id, err := EventID(version, []byte(`{"event_id":"$e:a","type":"t","content":{"n":0.5}}`))
		require.NoError(t, err)
		require.Equal(t, "$e:a", id)
		for _, raw := range []string{`{"type":"t","content":{}}`, `{"event_id":1,"type":"t","content":{}}`, `{"event_id":"e:a","type":"t","content":{}}`} {
			_, err := EventID(version, []byte(raw))
			require.Error(t, err, raw)
		}
		server := strings.Repeat("s", 230) + ":12345"
		event := message()
		event.Sender = "@u:" + server
		sealed, err := event.Seal(version, server, nil)
		require.NoError(t, err)
		require.LessOrEqual(t, len(sealed.ID), maxIdentifier)
	}
}

// Before version 6 an event may have any number. It is hashed as Python prints it.
func TestNumbersOfOldVersions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"1e10": "10000000000.0", "1.0": "1.0", "1e16": "1e+16", "1E15": "1000000000000000.0", "0.0001": "0.0001", "1e-5": "1e-05",
		"-0.0": "-0.0", "-0": "0", "1.5e300": "1.5e+300", "123456789012345680.0": "1.2345678901234568e+17", "5e-324": "5e-324",
		"100.50": "100.5", "9007199254740993": "9007199254740993", "-99999999999999999999999": "-99999999999999999999999",
	} {
		redacted, err := Redact("5", []byte(`{"type":"m.room.power_levels","content":{"ban":`+text+`,"users":{"@a:a":[`+text+`,{"x":`+text+`}]}}}`))
		require.NoError(t, err)
		require.Equal(t, `{"content":{"ban":`+want+`,"users":{"@a:a":[`+want+`,{"x":`+want+`}]}},"type":"m.room.power_levels"}`, string(redacted))
	}
	for _, version := range allVersions {
		_, err := EventID(version, []byte(`{"event_id":"$e","type":"m.room.power_levels","content":{"ban":0.5}}`))
		if version.number() < 6 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, ErrJSON)
		}
		_, err = ContentHash(version, []byte(`{"type":"t","content":{"n":1e400}}`))
		require.ErrorIs(t, err, ErrJSON)
	}
}
