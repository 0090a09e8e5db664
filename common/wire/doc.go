// Package wire is the contract between clients and Starling: identifiers,
// operations, error and close codes, JSON bodies and the two framings (a JSON
// envelope in a text message, goim's 16-byte header in a binary one).
// docs/protocol.md is its prose.
//
// Everything here is a value or a pure function: safe for concurrent use, no
// I/O, no state. Decoders never panic and never allocate more than a small
// multiple of their input; they copy what they keep, so a caller may reuse its
// read buffer as soon as they return.
package wire
