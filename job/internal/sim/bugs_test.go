package sim

// bug is a kind of mistake, planted to see that it is found.
type bug int

const (
	noBug bug = iota
	bugAckBeforeLog
	bugActBeforeCommit
	bugGuardSkipped
	bugRepeatsUnchecked
	bugMembersUnchecked
	bugJoinNotIndexed
	bugJoinNotApplied
	bugLeaveNotApplied
	bugJoinedUnknown
	bugCommittedEarly
	bugStartsBeyond
	bugPositionUnchecked
	bugResendWrong
	bugLostNotTold
	bugLostGroupsKept
	bugLaggedNotTold
	bugSeqGap
	bugCacheKept
	bugRedoNewSeq
	bugOrderSwapped
	bugHolesTrusted
	bugLookupEarly
	bugPoisonBlocks
	bugCursorBeyond
	bugAuthBeforeRoute
	bugGroupsBeforeRoute
	bugDeltasForgotten
	bugRefusalNotKept
	bugLateCommitFences
	bugBlockForgotten
	bugReplayedTwice
	bugReplayDropped
	bugRefusalStays
)

// planted is the list of bugs, and what each of them is.
func planted() map[bug]string {
	return map[bug]string{
		bugAckBeforeLog:      "send_ack is given before the record is in the log",
		bugActBeforeCommit:   "effects are done before the commit",
		bugGuardSkipped:      "a commit does not check epoch and applied",
		bugRepeatsUnchecked:  "a client_id is not looked up",
		bugMembersUnchecked:  "everyone counts as a member",
		bugJoinNotIndexed:    "a join does not write the edge into the group's index",
		bugJoinNotApplied:    "a join is not applied at the edge",
		bugLeaveNotApplied:   "a removal is not applied at the edge",
		bugJoinedUnknown:     "an edge passes on what came before the membership that a log-in read",
		bugCommittedEarly:    "offsets are committed before the effects are done",
		bugStartsBeyond:      "a new owner starts after what was applied",
		bugPositionUnchecked: "an edge passes on frames at or below its position",
		bugResendWrong:       "a stream is resumed after the edge's position",
		bugLostNotTold:       "an edge that was told lost tells nobody",
		bugLostGroupsKept:    "an edge that was told lost does not read its groups again",
		bugLaggedNotTold:     "a slow connection loses pushes without lagged",
		bugSeqGap:            "a seq is left out",
		bugCacheKept:         "caches and applied are kept after a commit whose outcome is unknown",
		bugRedoNewSeq:        "what is redone is judged again",
		bugOrderSwapped:      "two frames of a stream change places",
		bugHolesTrusted:      "the index is trusted without its sentinel",
		bugLookupEarly:       "routes are looked up before the commit",
		bugPoisonBlocks:      "a record that cannot be decoded is tried for ever",
		bugCursorBeyond:      "a client's cursor goes beyond what it was given",
		bugAuthBeforeRoute:   "a client syncs before its route is written",
		bugGroupsBeforeRoute: "groups are read before the route is written",
		bugDeltasForgotten:   "changes of groups are forgotten during a log-in",
		bugRefusalNotKept:    "a refusal is not kept for the next sync",
		bugLateCommitFences:  "a commit of our own that arrives late counts as another owner's",
		bugBlockForgotten:    "a conversation's head forgets who blocked whom",
		bugReplayedTwice:     "a replay is judged again though it was applied before",
		bugReplayDropped:     "a replay is dropped as a repeat of the record that was set aside",
		bugRefusalStays:      "a replay that is applied leaves the refusal for the next sync",
	}
}
