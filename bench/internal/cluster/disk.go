package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

const (
	smallRoom  = 768 << 20 // bytes beside what a server has already
	tmpfsMagic = 0x01021994
	fillerName = ".filler" // Kafka and MariaDB look at folders alone
	movedName  = ".moved"  // the data are here as a whole
)

// disk is a small file system in memory that holds a server's data.
type disk struct{ at string }

// aside is where a server's data are meanwhile, and fresh where they are copied
// back to: as a whole once the name is back.
func (s *Server) aside() string { return filepath.Join(s.dir, s.Name+".aside") }
func (s *Server) fresh() string { return filepath.Join(s.dir, s.Name+".fresh") }
func (s *Server) back() string  { return filepath.Join(s.dir, s.Name+".back") }

// takeOver goes on with what a run that was broken off has left: a small disk that
// holds all data stays one; where it holds but some, or is gone, the data go back
// to where they were.
func (s *Server) takeOver(ctx context.Context) error {
	if onTmpfs(s.data) && exists(filepath.Join(s.data, movedName)) {
		s.small = &disk{s.data}
		return s.Free()
	}
	for _, from := range []string{s.back(), s.aside()} {
		if !exists(from) {
			continue
		}
		err := s.End(ctx, syscall.SIGTERM)
		if err == nil && onTmpfs(s.data) {
			err = syscall.Unmount(s.data, 0)
		}
		if err == nil {
			err = errors.Join(os.RemoveAll(s.data), os.Rename(from, s.data))
		}
		if err != nil {
			return fmt.Errorf("put the data of %s back from %s: %w", s.Name, from, err)
		}
		break
	}
	return s.tidy()
}

// tidy removes what is older than the data, or not whole.
func (s *Server) tidy() error {
	if err := errors.Join(os.RemoveAll(s.fresh()), os.RemoveAll(s.back()), os.RemoveAll(s.aside())); err != nil {
		return fmt.Errorf("remove old data of %s: %w", s.Name, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// shrink moves a server's data to a small file system.
func (s *Server) shrink(ctx context.Context) error {
	if s.small != nil {
		return nil
	}
	err := s.End(ctx, syscall.SIGTERM)
	if err == nil {
		err = os.Rename(s.data, s.aside())
	}
	var size int64
	if err == nil {
		size, err = sizeOf(s.aside())
	}
	if err == nil {
		err = os.Mkdir(s.data, 0o700)
	}
	if err == nil {
		options := "mode=0700,size=" + strconv.FormatInt(size+smallRoom, 10)
		if err = syscall.Mount("tmpfs", s.data, "tmpfs", 0, options); err != nil {
			err = fmt.Errorf("mount: %w; run as root, or leave it out by -faults …,-disk-full", err)
		}
	}
	if err == nil {
		err = s.copyData(ctx, s.aside(), s.data)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(s.data, movedName), nil, 0o600)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("small disk of %s: %w", s.Name, err), s.takeOver(context.WithoutCancel(ctx)))
	}
	s.small = &disk{s.data}
	return nil
}

// widen moves the data back.
func (s *Server) widen(ctx context.Context) error {
	if s.small == nil {
		return nil
	}
	err := errors.Join(s.Free(), s.End(ctx, syscall.SIGTERM), os.RemoveAll(s.fresh()), os.Mkdir(s.fresh(), 0o700))
	if err == nil {
		err = s.copyData(ctx, s.data, s.fresh())
	}
	if err == nil {
		err = errors.Join(os.Remove(filepath.Join(s.fresh(), movedName)), os.Rename(s.fresh(), s.back()))
	}
	if err == nil {
		err = syscall.Unmount(s.data, 0)
	}
	if err != nil {
		return fmt.Errorf("take %s off its small disk, where its data still are: %w", s.Name, err)
	}
	s.small = nil
	return s.takeOver(ctx)
}

// copyData copies a folder. A database's files are allocated whole, so that what
// it has written once can be written again on a full disk; Kafka's indexes are
// mostly holes.
func (s *Server) copyData(ctx context.Context, from, to string) error {
	sparse := "--sparse=auto"
	if s.Tier == tierMySQL && to == s.data {
		sparse = "--sparse=never"
	}
	cmd := exec.CommandContext(ctx, "cp", "-a", sparse, from+"/.", to) //nolint:gosec // paths of ours
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copy its data: %w: %s", err, out)
	}
	return nil
}

// Fill leaves no room on a server's small disk.
func (s *Server) Fill() error {
	if s.small == nil {
		return fmt.Errorf("BUG: %s has no small disk", s.Name)
	}
	f, err := os.OpenFile(filepath.Join(s.small.at, fillerName), os.O_CREATE|os.O_WRONLY, 0o600)
	if errors.Is(err, syscall.ENOSPC) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("fill the disk of %s: %w", s.Name, err)
	}
	defer func() { _ = f.Close() }()
	at := int64(0)
	for n := int64(smallRoom); n >= 4096; {
		switch err := syscall.Fallocate(int(f.Fd()), 0, at, n); {
		case err == nil:
			at += n
		case errors.Is(err, syscall.ENOSPC):
			n /= 2
		case !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("fill the disk of %s: %w", s.Name, err)
		}
	}
	return nil
}

// Free undoes Fill.
func (s *Server) Free() error {
	if s.small == nil {
		return nil
	}
	if err := os.Remove(filepath.Join(s.small.at, fillerName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("free the disk of %s: %w", s.Name, err)
	}
	return nil
}

func onTmpfs(dir string) bool {
	var st, above syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && syscall.Statfs(filepath.Dir(dir), &above) == nil &&
		st.Type == tmpfsMagic && st.Fsid != above.Fsid
}

// sizeOf is what the files of a folder take when they have no holes; of Kafka's,
// which do, that is far too much and does no harm.
func sizeOf(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err //nolint:wrapcheck // names the file
	})
	return total, err //nolint:wrapcheck // names the file
}
