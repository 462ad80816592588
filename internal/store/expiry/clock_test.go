package expiry_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/expiry"
)

func TestClockIsTheEarlierOne(t *testing.T) {
	t.Parallel()
	clock := func(ahead time.Duration, err error) (time.Time, error) {
		return expiry.Clock(func() (time.Time, error) { return time.Now().Add(ahead), err })
	}
	for ahead, want := range map[time.Duration]time.Duration{-48 * time.Hour: -48 * time.Hour, 48 * time.Hour: 0} {
		got, err := clock(ahead, nil)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(want), got, time.Minute, ahead)
	}
	unread := errors.New("not read")
	_, err := clock(0, unread)
	require.ErrorIs(t, err, unread)
}
