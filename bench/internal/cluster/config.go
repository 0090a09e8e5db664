// Package cluster starts a whole Starling for one run of the bench tool, owns its
// processes, and ends them again: everything in one process on the embedded
// default, or two edges, two logics and two jobs on the servers of deploy/local,
// with a proxy between any two that package fault may part.
//
// What breaks the cluster calls its methods from one goroutine; processes and
// servers that were killed, stopped or parted are whole again after Restore. What
// goes wrong by itself (a process that ends unasked, an exit code other than 0, a
// data race in a log) is kept, and Failures returns it.
package cluster

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// Kinds of cluster.
const (
	KindSplit = "split"
	KindAll   = "all"
)

// Config says what is started. Its zero value starts nothing.
type Config struct {
	Kind  string
	Local string   // folder of deploy/local's servers
	Bin   string   // folder of the binaries
	Small []string // names of servers whose data are put on a small file system
}

// RegisterFlags declares the flags.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Kind, "cluster", "", "start a system for the run: all (one process, embedded services) or split (every tier twice, on the servers of -local)")
	fs.StringVar(&c.Local, "local", "", "`folder` of the servers that deploy/local/up has started (its STARLING_LOCAL)")
	fs.StringVar(&c.Bin, "bin", "", "`folder` of the binaries of -cluster; empty: where bench is")
}

// Validate returns every bad flag at once.
func (c *Config) Validate() error {
	var errs []error
	switch c.Kind {
	case "", KindAll:
		if c.Local != "" {
			errs = append(errs, errors.New("-local: goes with -cluster split alone"))
		}
		if c.Kind == "" && c.Bin != "" {
			errs = append(errs, errors.New("-bin: goes with -cluster alone"))
		}
	case KindSplit:
		if c.Local == "" {
			errs = append(errs, errors.New("-cluster split: name its servers' folder by -local; deploy/local/up 3 starts them"))
		} else if _, err := os.Stat(filepath.Join(c.Local, "env")); err != nil {
			errs = append(errs, fmt.Errorf("-local: no servers were started in it (%w); run STARLING_LOCAL=%s deploy/local/up 3", err, c.Local))
		}
	default:
		errs = append(errs, fmt.Errorf("-cluster %s: must be all or split", c.Kind))
	}
	if c.Kind == KindAll || c.Kind == KindSplit {
		errs = append(errs, c.findBinaries())
	}
	return errors.Join(errs...)
}

// findBinaries looks for them, and fills in Bin.
func (c *Config) findBinaries() error {
	if c.Bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("-bin: %w; name the folder of the binaries", err)
		}
		c.Bin = filepath.Dir(exe)
	}
	names := []string{"starling"}
	if c.Kind == KindSplit {
		names = append(names, tierEdge, tierLogic, tierJob)
	}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(c.Bin, name)); err != nil {
			return fmt.Errorf("-bin: no %s there (%w); run make build", name, err)
		}
	}
	return nil
}
