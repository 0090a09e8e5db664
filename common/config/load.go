package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Flags that say what to do, and so cannot stand in a file.
const (
	flagConfig = "config"
	flagVerify = "config.verify"
	flagPrint  = "print-config"
)

// envPrefix is in front of every variable of ours. Variables that begin with
// an envForeign are read by tests and deploy/local, not by the program.
const envPrefix = "STARLING_"

var envForeign = []string{"STARLING_REQUIRE_", "STARLING_TEST_", "STARLING_LOCAL"} //nolint:gochecknoglobals // a constant table

// entry is a value and where it came from, as the user would look for it.
type entry struct{ value, origin string }

// layer is one source, by flag name.
type layer map[string]entry

// loader gathers the layers and everything wrong with them.
type loader struct {
	fs    *flag.FlagSet
	names map[string]string // environment variable -> flag name
	bad   []error
}

// Load sets the flags of fs from the file named by -config (or
// STARLING_CONFIG), the environment ("KEY=value" each) and args, and adds the
// flags -config, -config.verify and -print-config if they are missing. Its
// error is flag.ErrHelp when help was asked for, else an *Error.
func Load(fs *flag.FlagSet, args, environ []string) error {
	addCommands(fs)
	l := &loader{fs: fs, names: map[string]string{}}
	fs.VisitAll(func(f *flag.Flag) {
		l.names[EnvName(f.Name)] = f.Name
		if _, ok := f.Value.(*Secret); ok {
			l.names[EnvName(f.Name+"-file")] = f.Name + "-file"
		}
	})
	line, err := l.commandLine(args)
	if err != nil {
		return err
	}
	env := l.environment(environ)
	path, given := env[flagConfig]
	if p, ok := line[flagConfig]; ok {
		path, given = p, true
	}
	var fromFile layer
	if given && path.value != "" {
		fromFile = l.file(path)
	}
	l.apply(fromFile, env, line)
	return Invalid(l.bad...)
}

func addCommands(fs *flag.FlagSet) {
	if fs.Lookup(flagConfig) == nil {
		fs.String(flagConfig, "", "YAML `file` with settings")
	}
	if fs.Lookup(flagVerify) == nil {
		fs.Bool(flagVerify, false, "check the settings, say what is wrong and exit")
	}
	if fs.Lookup(flagPrint) == nil {
		fs.Bool(flagPrint, false, "print the settings that differ from the defaults and exit")
	}
}

// isSetting tells settings from flags that say what to do.
func isSetting(name string) bool {
	switch name {
	case flagConfig, flagVerify, flagPrint, "list-targets":
		return false
	}
	return true
}

// EnvName is the variable of a flag: edge.listen-addr is
// STARLING_EDGE_LISTEN_ADDR.
func EnvName(name string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(name))
}

// collected is a flag that only remembers what it was given.
type collected struct {
	to     layer
	name   string
	isBool bool
}

// String is asked by package flag.
func (c *collected) String() string { return "" }

// IsBoolFlag lets -x stand for -x=true.
func (c *collected) IsBoolFlag() bool { return c.isBool }

// Set remembers the value; of a repeated flag the last counts.
func (c *collected) Set(v string) error {
	c.to[c.name] = entry{v, "flag -" + c.name}
	return nil
}

// commandLine reads args without setting anything, so that all that is wrong
// can be told at once and every source is applied the same way.
func (l *loader) commandLine(args []string) (layer, error) {
	out := layer{}
	shadow := flag.NewFlagSet(l.fs.Name(), flag.ContinueOnError)
	shadow.SetOutput(io.Discard)
	for _, name := range slices.Sorted(maps.Values(l.names)) {
		c := &collected{to: out, name: name}
		if f := l.fs.Lookup(name); f != nil {
			b, ok := f.Value.(interface{ IsBoolFlag() bool })
			c.isBool = ok && b.IsBoolFlag()
		}
		shadow.Var(c, name, "")
	}
	for rest := args; ; rest = shadow.Args() {
		err := shadow.Parse(rest)
		if err == nil {
			break
		}
		if errors.Is(err, flag.ErrHelp) {
			return nil, flag.ErrHelp
		}
		text := err.Error()
		if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
			text = fmt.Sprintf("%s: unknown flag -%s; %s", name, name, l.suggest(name))
		}
		l.bad = append(l.bad, errors.New(text))
	}
	if shadow.NArg() > 0 {
		l.bad = append(l.bad, fmt.Errorf("argument %q: not expected here; settings are written -name=value", shadow.Arg(0)))
	}
	return out, nil
}

func (l *loader) environment(environ []string) layer {
	out := layer{}
	for _, kv := range slices.Sorted(slices.Values(environ)) {
		env, v, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(env, envPrefix) ||
			slices.ContainsFunc(envForeign, func(p string) bool { return strings.HasPrefix(env, p) }) {
			continue
		}
		name, ok := l.names[env]
		if !ok || (!isSetting(name) && name != flagConfig) {
			guess := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(env, envPrefix), "_", "-"))
			l.bad = append(l.bad, fmt.Errorf("%s: no setting has this environment variable; unset it, or %s", env, l.suggest(guess)))
			continue
		}
		out[name] = entry{v, "environment " + env}
	}
	return out
}

// file reads YAML; its keys are normalised to flag names.
func (l *loader) file(path entry) layer {
	k := koanf.New(".")
	if err := k.Load(file.Provider(path.value), yaml.Parser()); err != nil {
		text := strings.Join(strings.Fields(err.Error()), " ")
		l.bad = append(l.bad, fmt.Errorf("config: %s (from %s); name a readable YAML file", text, path.origin))
		return nil
	}
	out, seen := layer{}, map[string]string{}
	for _, key := range k.Keys() {
		name := strings.ReplaceAll(key, "_", "-")
		if twin, ok := seen[name]; ok {
			l.bad = append(l.bad, fmt.Errorf("%s: given twice in %s, as %s and as %s; keep one", name, path.value, twin, key))
		}
		seen[name] = key
		if e, ok := l.fileEntry(name, k.Get(key), path.value); ok {
			out[name] = e
		}
	}
	return out
}

// fileEntry takes one key of the file; ok is false when it sets nothing.
func (l *loader) fileEntry(name string, value any, path string) (e entry, ok bool) {
	text, scalar := yamlText(value)
	switch {
	case text == "" && !scalar && l.isSection(name): // "edge:" or "edge: {}"
		return e, false
	case !l.known(name) || !isSetting(name):
		l.bad = append(l.bad, fmt.Errorf("%s: unknown key in %s; %s", name, path, l.suggest(name)))
	case value == nil:
		l.bad = append(l.bad, fmt.Errorf("%s: has no value in %s; give it one, or take the key out", name, path))
	case !scalar:
		l.bad = append(l.bad, fmt.Errorf("%s: is neither a value nor a list of values in %s; see configs/reference.md", name, path))
	default:
		return entry{text, "file " + path}, true
	}
	return e, false
}

// yamlText writes a scalar or a list of scalars as a flag would be given.
func yamlText(value any) (text string, scalar bool) {
	switch v := value.(type) {
	case nil, map[string]any:
		return "", false
	case []any:
		parts := make([]string, len(v))
		for i, p := range v {
			t, ok := yamlText(p)
			if !ok {
				return "list", false
			}
			parts[i] = t
		}
		return strings.Join(parts, ","), true
	default:
		return fmt.Sprint(v), true
	}
}

func (l *loader) known(name string) bool { return l.names[EnvName(name)] == name }

func (l *loader) isSection(name string) bool {
	for _, known := range l.names {
		if strings.HasPrefix(known, name+".") {
			return true
		}
	}
	return false
}

// apply sets the flags, the strongest source last; only the value that counts
// is parsed, so that a broken one can be overridden.
func (l *loader) apply(layers ...layer) {
	final := layer{}
	for _, la := range layers {
		for _, name := range slices.Sorted(maps.Keys(la)) {
			e, target := la[name], name
			if l.fs.Lookup(name) == nil { // the -file twin of a secret
				target = strings.TrimSuffix(name, "-file")
				e.value = "@" + e.value
			}
			if other, twice := la[target]; twice && target != name {
				l.bad = append(l.bad, fmt.Errorf("%s: %s gives it together with %s; keep one", target, other.origin, e.origin))
			}
			final[target] = e
		}
	}
	for _, name := range slices.Sorted(maps.Keys(final)) {
		e := final[name]
		if err := l.fs.Set(name, e.value); err != nil {
			l.bad = append(l.bad, l.badValue(name, e, err))
		}
	}
}

func (l *loader) badValue(name string, e entry, err error) error {
	f := l.fs.Lookup(name)
	kind, _ := flag.UnquoteUsage(f)
	if kind == "" {
		kind = "true or false"
	}
	shown := fmt.Sprintf("%q", e.value)
	if _, secret := f.Value.(*Secret); secret {
		shown = "the secret"
	}
	return fmt.Errorf("%s: %s (from %s): %s; give a value of kind %s, for example the default %q",
		name, shown, e.origin, strings.ReplaceAll(err.Error(), "\n", " "), kind, f.DefValue)
}

// suggest names the setting that was probably meant.
func (l *loader) suggest(name string) string {
	best, at := "", 1<<30
	flat := func(s string) string { return strings.ReplaceAll(s, ".", "-") }
	for _, known := range slices.Sorted(maps.Values(l.names)) {
		if d := distance(flat(name), flat(known)); d < at {
			best, at = known, d
		}
	}
	if at <= max(2, len(name)/4) {
		return "did you mean " + best + "?"
	}
	return "see configs/reference.md or -h for what there is"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}
