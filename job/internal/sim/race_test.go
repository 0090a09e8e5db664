//go:build race

package sim

// defaultSchedules is a tenth: they share nothing, and take ten times as long.
const defaultSchedules = 300
