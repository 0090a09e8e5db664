// Package machine is the partition machine: it turns the records of the
// partitions that this job owns into rows, verdicts and effects.
package machine
