package migrate_test

import (
	"testing"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// A lab is a database of the test's own.
type lab struct{ *storetest.Lab }
