package devstack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// ErrMissing is wrapped by errors of [StartPostgres] and [StartRedis] if the server's
// programs are not installed. The message names them and says how to install them.
var ErrMissing = errors.New("a server is not installed")

// postgresPrograms returns the folder with PostgreSQL's programs, all of one version:
// the first such folder in PATH, or the newest of Debian's, which are not in PATH.
func postgresPrograms() (string, error) {
	const debian = "/usr/lib/postgresql/*/bin"
	installed, err := filepath.Glob(debian)
	if err != nil {
		return "", fmt.Errorf("look for PostgreSQL: %w", err)
	}
	slices.SortFunc(installed, func(a, b string) int { return majorVersion(b) - majorVersion(a) })

	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), installed...) {
		complete := true
		for _, program := range []string{"initdb", "postgres", "pg_restore"} {
			_, err := exec.LookPath(filepath.Join(folder, program))
			complete = complete && err == nil
		}
		if complete {
			return folder, nil
		}
	}
	return "", fmt.Errorf("%w: no folder of PATH or %s has initdb, postgres and pg_restore: apt-get install --no-install-recommends postgresql",
		ErrMissing, debian)
}

// majorVersion returns the 15 of /usr/lib/postgresql/15/bin, and 0 for any other
// folder.
func majorVersion(folder string) int {
	version, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder)))
	return version
}

func redisProgram() (string, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("%w: redis-server is not in PATH: apt-get install --no-install-recommends redis-server", ErrMissing)
	}
	return program, nil
}

// serverAccount returns the user that servers run as if we are root, because PostgreSQL
// refuses to run as root. Otherwise it returns nil.
func serverAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("find the user postgres or nobody to run the servers: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
	if err = errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("user %s: %w", account.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// onFreePort calls start with a free port. If another process takes the port first, it
// calls start again with another port.
func onFreePort(start func(port int) error) error {
	var err error
	for range 5 {
		var port int
		if port, err = FreePort(); err != nil {
			return err
		}
		if err = start(port); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// FreePort returns a free port below those for outgoing connections. A client could take
// one of those while its server restarts, and a client that redials could then connect
// to itself.
func FreePort() (int, error) {
	var err error
	for range 100 {
		port := 20_000 + rand.IntN(12_000)
		var listener net.Listener
		if listener, err = net.Listen("tcp", localAddress(port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

func localAddress(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
