package backfill_test

import (
	"testing"

	"lethe/internal/devstack/devstacktest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }
