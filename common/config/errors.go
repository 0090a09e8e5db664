package config

import (
	"errors"
	"strings"
)

// ExitCode is what main exits with for an *Error.
const ExitCode = 2

// Error is bad configuration: everything that was found, one a line.
type Error struct{ Problems []string }

// Error returns the problems, one a line.
func (e *Error) Error() string {
	return "configuration:\n  " + strings.Join(e.Problems, "\n  ")
}

// Invalid makes an *Error of problems found elsewhere, for example by Validate
// methods; errors made by errors.Join count one by one. It returns nil when
// all are nil.
func Invalid(errs ...error) error {
	var problems []string
	for _, err := range errs {
		problems = appendProblems(problems, err)
	}
	if len(problems) == 0 {
		return nil
	}
	return &Error{Problems: problems}
}

func appendProblems(to []string, err error) []string {
	if err == nil {
		return to
	}
	if bad, ok := errors.AsType[*Error](err); ok {
		return append(to, bad.Problems...)
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			to = appendProblems(to, e)
		}
		return to
	}
	return append(to, strings.Split(err.Error(), "\n")...)
}
