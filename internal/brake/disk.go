package brake

import (
	"fmt"
	"syscall"
)

// freeSpace returns how many bytes of the file system with the folder are free for others
// than root.
func freeSpace(folder string) (uint64, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(folder, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", folder, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}
