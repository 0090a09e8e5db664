// Package config fills a flag.FlagSet from a YAML file, the environment and
// the command line: default < file < STARLING_EDGE_LISTEN_ADDR <
// -edge.listen-addr. The flag set is the schema: packages own a Config struct
// with RegisterFlags and Validate, and one flag name gives the names of the
// other two sources. In the file, dots are nesting and "_" is as good as "-":
//
//	edge:
//	  listen_addr: 127.0.0.1:3102
//
// What nobody registered is an error, in every source. All errors come back
// at once as one *Error, each line naming the key, where it came from and what
// to do; main turns that type into exit code 2.
//
// A setting of type Secret may be given as "@/path", or under its name with
// "-file" added, to be read from a file; it prints as ********.
//
// Nothing here is safe for concurrent use: it runs once, before anything else.
// Limits: settings are scalars or lists of them (Strings); there are no lists
// of structures.
package config
