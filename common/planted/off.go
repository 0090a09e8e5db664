//go:build !planted

package planted

import "time"

// Built says whether this build can have bugs.
const Built = false

// Plant takes the choice of a bug out of the environment ("KEY=value" each). An
// error lists the bugs.
func Plant(environ []string) (rest []string, chosen Bug, err error) { return environ, "", nil }

// Now says whether a bug shows this time.
func Now(Bug) bool { return false }

// After does something later, beside all else.
func After(time.Duration, func()) {}

// Sleep holds up whoever calls it.
func Sleep(time.Duration) {}
