package journal_test

import (
	"testing"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const room = storetest.Room
