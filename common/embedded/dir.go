package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// dirVersion is the version of a data folder's layout: raised when an older
// binary could not read the folder any more.
const dirVersion = 1

const (
	lockName    = "lock"
	versionName = "version"
	brokersName = "brokers" // the address of the log, while a process runs it
	versionTag  = "starling data folder, version "
)

// ownFiles may stand in a folder that has no version file yet.
var ownFiles = map[string]bool{ //nolint:gochecknoglobals // a constant table
	lockName: true, "keys.json": true, "lost+found": true,
}

// dirLock holds a data folder until released or until the process ends.
type dirLock struct{ f *os.File }

// takeDir makes the folder where it is missing, locks it and checks that this
// binary can read it.
func takeDir(dir string) (*dirLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	l, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := checkVersion(dir); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func lockDir(dir string) (*dirLock, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator names the folder
	if err != nil {
		return nil, fmt.Errorf("open lock of data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(path) //nolint:gosec // as above; only for the message
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &inUseError{dir, orUnknown(strings.TrimSpace(string(owner)))}
		}
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	l := &dirLock{f}
	if err := l.writePID(); err != nil {
		l.release()
		return nil, fmt.Errorf("write lock of data folder: %w", err)
	}
	return l, nil
}

// inUseError says which process has the folder.
type inUseError struct{ dir, owner string }

func (e *inUseError) Error() string {
	return fmt.Sprintf("data folder %s is used by process %s: stop that process or give another folder with -data", e.dir, e.owner)
}

func (l *dirLock) writePID() error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func orUnknown(s string) string {
	if s == "" {
		return "(unknown)"
	}
	return s
}

// release gives the folder up. The file stays: removing it would let two
// processes lock different files of one name.
func (l *dirLock) release() { _ = l.f.Close() }

func checkVersion(dir string) error {
	path := filepath.Join(dir, versionName)
	b, err := os.ReadFile(path) //nolint:gosec // the operator names the folder
	if errors.Is(err, fs.ErrNotExist) {
		if err := checkFresh(dir); err != nil {
			return err
		}
		return writeVersion(path)
	}
	if err != nil {
		return fmt.Errorf("read version of data folder: %w", err)
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), versionTag)
	v, err := strconv.Atoi(text)
	if !ok || err != nil || v < 1 {
		return fmt.Errorf("%s is not the version file of a data folder: give another folder with -data, or restore this one from a copy", path)
	}
	if v > dirVersion {
		return fmt.Errorf("data folder %s has version %d, this binary knows up to %d: run the newer binary or give another folder with -data", dir, v, dirVersion)
	}
	return nil
}

// checkFresh refuses to make a data folder among someone else's files.
func checkFresh(dir string) error {
	es, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read data folder: %w", err)
	}
	for _, e := range es {
		if !ownFiles[e.Name()] && !strings.HasPrefix(e.Name(), ".") {
			return fmt.Errorf("%s holds %q but no %s file, so it is no data folder: give an empty or new folder with -data", dir, e.Name(), versionName)
		}
	}
	return nil
}

// writeVersion writes the file by renaming, so that a kill leaves all or
// nothing of it, and syncs it and its name: a power cut that took it would take
// the folder with every message that stands in it.
func writeVersion(path string) error {
	if err := writeFile(path, versionTag+strconv.Itoa(dirVersion)+"\n"); err != nil {
		return fmt.Errorf("write version of data folder: %w", err)
	}
	return nil
}

func writeFile(path, text string) (err error) {
	dir := filepath.Dir(path)
	tmp := filepath.Join(dir, "."+filepath.Base(path)+".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // the operator names the folder
	if err != nil {
		return err //nolint:wrapcheck // the caller says what was tried
	}
	_, werr := f.WriteString(text)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err //nolint:wrapcheck // as above
	}
	d, err := os.Open(dir) //nolint:gosec // as above
	if err != nil {
		return err //nolint:wrapcheck // as above
	}
	return errors.Join(d.Sync(), d.Close())
}
