package matrixtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/matrix"
	"lethe/internal/matrix/matrixtest"
)

// maxLevel is the maximum absolute value of a level.
const maxLevel = 1<<53 - 1

func TestParsePowerLevels(t *testing.T) {
	t.Parallel()
	creators := []string{"@creator:a", "@other:a"}
	for _, version := range []matrix.RoomVersion{"1", "5", "9", "10", "11", "12"} {
		var creator int64 = 100
		if version == "12" {
			creator = matrixtest.CreatorPower
		}
		none, err := matrixtest.ParsePowerLevels(version, nil, creators)
		require.NoError(t, err)
		require.Equal(t, creator, none.User("@creator:a"))
		require.Equal(t, creator, none.User("@other:a"))
		require.EqualValues(t, 0, none.User("@alice:a"))
		require.EqualValues(t, 50, none.Send("m.room.name", true))
		require.EqualValues(t, 0, none.Send("m.room.message", false))

		if version != "12" {
			creator = 0
		}
		empty, err := matrixtest.ParsePowerLevels(version, []byte(`{}`), creators)
		require.NoError(t, err)
		require.Equal(t, creator, empty.User("@creator:a"), "an event without users must take the creator's default power")
		require.EqualValues(t, 50, empty.Send("m.room.name", true))

		if version != "12" {
			creator = 75
		}
		full, err := matrixtest.ParsePowerLevels(version, []byte(`{"users":{"@creator:a":75,"@alice:a":-5},"users_default":-10,"events":{"m.room.name":60,"m.sticker":1},
			"events_default":2,"state_default":40,"ban":"x","notifications":[]}`), creators)
		require.NoError(t, err)
		require.Equal(t, creator, full.User("@creator:a"))
		require.EqualValues(t, -5, full.User("@alice:a"))
		require.EqualValues(t, -10, full.User("@bob:a"))
		require.EqualValues(t, 60, full.Send("m.room.name", true))
		require.EqualValues(t, 60, full.Send("m.room.name", false), "a type has one level")
		require.EqualValues(t, 1, full.Send("m.sticker", false))
		require.EqualValues(t, 40, full.Send("m.room.topic", true))
		require.EqualValues(t, 2, full.Send("m.room.message", false))

		for _, content := range []string{
			"", "null", "[]", "x", `{"users":null}`, `{"users":[]}`, `{"users":{"@a:a":null}}`, `{"users":{"@a:a":1.5}}`, `{"users":{"@a:a":1e2}}`, `{"users":{"@a:a":true}}`,
			`{"events":"x"}`, `{"events":{"m.room.name":{}}}`, `{"users_default":[]}`, `{"state_default":9007199254740992}`, `{"events_default":-9007199254740992}`,
			`{"users_default":"fifty"}`, `{"users_default":""}`, `{"users_default":"1.0"}`, `{"users_default":"1_0"}`, `{"users_default":"0x10"}`, `{"users_default":"1 0"}`,
			`{"users_default":"--1"}`, `{"users_default":"99999999999999999999"}`, `{"users_default":1,"users_default":2}`,
		} {
			_, err := matrixtest.ParsePowerLevels(version, []byte(content), creators)
			require.Error(t, err, content)
		}

		strings, err := matrixtest.ParsePowerLevels(version, []byte(`{"users":{"@a:a":" +0100 "},"events":{"m.room.name":"-5"},"users_default":"7"}`), nil)
		if version == "10" || version == "11" || version == "12" {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		require.EqualValues(t, 100, strings.User("@a:a"))
		require.EqualValues(t, 7, strings.User("@b:a"))
		require.EqualValues(t, -5, strings.Send("m.room.name", true))
	}
}

func TestParsePowerLevelsRefusesRoomVersions(t *testing.T) {
	t.Parallel()
	for _, version := range []matrix.RoomVersion{"", "0", "13", "09", "org.matrix.msc3757.11", "\x00"} {
		_, err := matrixtest.ParsePowerLevels(version, nil, nil)
		require.ErrorIs(t, err, matrix.ErrRoomVersion)
	}
}

// FuzzParsePowerLevels checks that only creators can have more than the maximum level.
func FuzzParsePowerLevels(f *testing.F) {
	for _, seed := range []string{`{}`, `{"users":{"@a:a":"100"},"events":{"t":1}}`, `{"users_default":9007199254740991}`, `{"users":[]}`, `{"users":{"@c:a":1}}`} {
		f.Add([]byte(seed), "@a:a", "t")
	}
	f.Fuzz(func(t *testing.T, content []byte, user, kind string) {
		for _, version := range []matrix.RoomVersion{"9", "10", "12"} {
			levels, err := matrixtest.ParsePowerLevels(version, content, []string{"@c:a"})
			if err != nil {
				continue
			}
			if version == "12" {
				require.EqualValues(t, matrixtest.CreatorPower, levels.User("@c:a"))
			}
			if user != "@c:a" {
				require.LessOrEqual(t, levels.User(user), int64(maxLevel))
			}
			require.LessOrEqual(t, levels.Send(kind, true), int64(maxLevel))
			require.LessOrEqual(t, levels.Send(kind, false), int64(maxLevel))
		}
	})
}
