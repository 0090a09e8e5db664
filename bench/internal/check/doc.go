// Package check judges the record of a run by what docs/protocol.md promises.
//
// It believes nobody: the timeline of a conversation is what anybody was shown of
// it, and whoever was shown something else contradicts it. Who may see which part
// of it is read from the timeline's own joins and removals. What cannot be judged
// as it comes (a text that an edit explains which is seen later, a gap that a
// removal explains) waits until all is read.
//
// A Checker belongs to one goroutine. Its memory grows with the messages, not
// with how often each was seen: a bit for each device that saw it.
package check
