package timeline_test

import (
	"testing"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// A lab is a database of the test's own.
type lab struct{ *storetest.Lab }

func setup(t *testing.T) *lab {
	t.Helper()
	return &lab{storetest.New(t, schema.API)}
}

const (
	room          = storetest.Room
	weirdRoom     = "!weird:my_server:8448"
	bystanderRoom = "!bystander:my_server:8448"
)
