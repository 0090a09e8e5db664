// Package planted holds bugs on purpose: what each fault point in the tiers does
// wrong when it is told to, so that `bench verify` can be seen to find it.
//
// A fault point is a line such as
//
//	if planted.Now(planted.EdgeDropsPush) { … }
//
// where such a bug would be. Without the build tag planted, Now is a constant
// false and the compiler leaves out the rest. With it, the environment variable
// STARLING_PLANTED chooses one bug, as NAME or NAME:N for every N-th time that its
// fault point is reached. Such a build is for tests alone: it says so in its log
// and its version.
//
// All functions are safe for concurrent use. One process has one bug at most.
package planted

// Bug names a bug.
type Bug string

// Bugs, by where they are. What each does stands in All.
const (
	EdgeDropsPush      Bug = "edge-drops-push"
	EdgeReordersPush   Bug = "edge-reorders-push"
	EdgeCorruptsPush   Bug = "edge-corrupts-push"
	EdgePushesAstray   Bug = "edge-pushes-astray"
	EdgeStalls         Bug = "edge-stalls"
	EdgeKeepsQuiet     Bug = "edge-keeps-quiet"
	EdgeForgetsRoute   Bug = "edge-forgets-route"
	EdgeForgetsGroups  Bug = "edge-forgets-groups"
	EdgeIgnoresJoin    Bug = "edge-ignores-join"
	EdgeIgnoresLeave   Bug = "edge-ignores-leave"
	EdgeCorruptsCursor Bug = "edge-corrupts-cursor"
	EdgeSwallowsSend   Bug = "edge-swallows-send"
	EdgeCutsSession    Bug = "edge-cuts-session"

	LogicAcksEarly       Bug = "logic-acks-early"
	LogicAcksWrongID     Bug = "logic-acks-wrong-id"
	LogicRepeatsRenamed  Bug = "logic-repeats-renamed"
	LogicReordersSends   Bug = "logic-reorders-sends"
	LogicRefusesWritten  Bug = "logic-refuses-written"
	LogicOpensHistory    Bug = "logic-opens-history"
	LogicForgetsStatus   Bug = "logic-forgets-status"
	LogicSyncSkips       Bug = "logic-sync-skips"
	LogicSyncGoesTooFar  Bug = "logic-sync-goes-too-far"
	LogicSyncTellsMax    Bug = "logic-sync-tells-max"
	LogicWrongUnread     Bug = "logic-wrong-unread"
	LogicWrongReadSeq    Bug = "logic-wrong-read-seq"
	LogicWrongPeerCursor Bug = "logic-wrong-peer-cursor"
	LogicReceiptTooHigh  Bug = "logic-receipt-too-high"
	LogicReceiptTooLow   Bug = "logic-receipt-too-low"
	LogicReceiptAstray   Bug = "logic-receipt-astray"

	JobForgetsEffects    Bug = "job-forgets-effects"
	JobSkipsSeq          Bug = "job-skips-seq"
	JobReordersRecords   Bug = "job-reorders-records"
	JobRefusesSilently   Bug = "job-refuses-silently"
	JobPushesOtherText   Bug = "job-pushes-other-text"
	JobStoresOtherText   Bug = "job-stores-other-text"
	JobCachesOtherText   Bug = "job-caches-other-text"
	JobForgetsChange     Bug = "job-forgets-change"
	JobTurnsClockBack    Bug = "job-turns-clock-back"
	JobMiscounts         Bug = "job-miscounts"
	NobodyChecksMembers  Bug = "nobody-checks-members"
	NobodyChecksRepeats  Bug = "nobody-checks-repeats"
	OutboxDropsFrame     Bug = "outbox-drops-frame"
	RegistryOmitsRoutes  Bug = "registry-omits-routes"
	RegistryOmitsEdges   Bug = "registry-omits-edges"
	StoreLosesRow        Bug = "store-loses-row"
	StoreLosesCursor     Bug = "store-loses-cursor"
	StoreTurnsCursorBack Bug = "store-turns-cursor-back"
	StoreForgetsLeave    Bug = "store-forgets-leave"
	IDsRepeat            Bug = "ids-repeat"
)

// Info describes a bug.
type Info struct {
	Bug   Bug
	Every int64    // it shows every so-many-th time that its fault point is reached
	Rules []string // of `bench check`: one of these at least must be broken
	What  string
}

// All lists the bugs.
func All() []Info {
	rules := func(names ...string) []string { return names }
	return []Info{
		{EdgeDropsPush, 200, rules("gap", "not-told"), "a message is not queued to one session, which is told nothing"},
		{EdgeReordersPush, 20, rules("order", "gap"), "a message waits 300 ms while those after it pass"},
		{EdgeCorruptsPush, 50, rules("corrupt"), "a byte of a message changes on its way to its sessions of one framing"},
		{EdgePushesAstray, 10, rules("leak"), "what is pushed to a user goes to everybody"},
		{EdgeStalls, 60, rules("late"), "a stream from a job is not read for 3 s"},
		{EdgeKeepsQuiet, 1, rules("gap", "not-told"), "a slow session loses messages and is not told lagged"},
		{EdgeForgetsRoute, 4, rules("not-told", "gap", "late"), "a log-in writes no route"},
		{EdgeForgetsGroups, 2, rules("not-told", "gap", "late"), "a log-in enters no groups"},
		{EdgeIgnoresJoin, 3, rules("not-told", "gap", "late"), "who joins a group is not entered into it"},
		{EdgeIgnoresLeave, 1, rules("leak"), "who leaves a group is pushed its messages all the same"},
		{EdgeCorruptsCursor, 20, rules("receipt"), "an ack is passed on as a read"},
		{EdgeSwallowsSend, 300, rules("late"), "a send is not passed on, and nobody answers it"},
		{EdgeCutsSession, 200, rules("cut"), "a session is ended without any reason"},

		{LogicAcksEarly, 100, rules("lost"), "a send is acknowledged and never written to the log"},
		{LogicAcksWrongID, 100, rules("ack-id"), "a send_ack has another id than the message"},
		{LogicRepeatsRenamed, 100, rules("phantom"), "a send is written twice, the second time under another client_id"},
		{LogicReordersSends, 20, rules("fifo"), "a send waits half a second while those after it pass"},
		{LogicRefusesWritten, 100, rules("ghost", "refusal"), "a send is refused and written all the same"},
		{LogicOpensHistory, 1, rules("leak"), "history is shown to whoever asks"},
		{LogicForgetsStatus, 1, rules("stale", "corrupt"), "sync and history do not say that a message was recalled or edited"},
		{LogicSyncSkips, 20, rules("sync"), "sync leaves out a message"},
		{LogicSyncGoesTooFar, 10, rules("sync"), "sync says an upto beyond what it shows"},
		{LogicSyncTellsMax, 1, rules("sync"), "sync tells those who left how far the group has come since"},
		{LogicWrongUnread, 5, rules("unread"), "sync counts one too many as unread"},
		{LogicWrongReadSeq, 5, rules("receipt", "unread"), "sync says a read_seq that is too low"},
		{LogicWrongPeerCursor, 5, rules("receipt"), "sync says that the peer has more than it has"},
		{LogicReceiptTooHigh, 20, rules("receipt"), "a receipt says more than its user said"},
		{LogicReceiptTooLow, 20, rules("receipt"), "a receipt says less than its user said"},
		{LogicReceiptAstray, 20, rules("receipt"), "a receipt goes to everybody"},

		{JobForgetsEffects, 100, rules("gap", "not-told"), "a committed record has no effects"},
		{JobSkipsSeq, 200, rules("hole"), "a seq is given to nothing"},
		{JobReordersRecords, 1, rules("fifo"), "two records of a partition change places"},
		{JobRefusesSilently, 100, rules("lost"), "a good record counts as refused, and its sender is not told"},
		{JobPushesOtherText, 100, rules("corrupt"), "a message is pushed with another text than is stored"},
		{JobStoresOtherText, 100, rules("corrupt"), "a message is stored with another text than is pushed"},
		{JobCachesOtherText, 1, rules("corrupt"), "the cache holds another text than the store"},
		{JobForgetsChange, 3, rules("stale"), "a recall or an edit is told, and not applied to its message"},
		{JobTurnsClockBack, 100, rules("order"), "a message has an earlier time than the one before"},
		{JobMiscounts, 100, rules("ledger"), "a record is in no column of the ledger"},

		{NobodyChecksMembers, 1, rules("leak"), "logic and job let everybody write to every group"},
		{NobodyChecksRepeats, 1, rules("repeated"), "logic and job do not look a client_id up"},
		{OutboxDropsFrame, 200, rules("gap", "not-told"), "the job's outbox loses a frame"},
		{RegistryOmitsRoutes, 50, rules("gap", "not-told"), "a look-up finds no routes of a user"},
		{RegistryOmitsEdges, 10, rules("gap", "not-told"), "a look-up finds no edges of a group"},
		{StoreLosesRow, 50, rules("sync", "history"), "a message is not stored"},
		{StoreLosesCursor, 5, rules("receipt"), "a cursor is not written"},
		{StoreTurnsCursorBack, 20, rules("receipt"), "a cursor is written with half of what it was"},
		{StoreForgetsLeave, 1, rules("leak"), "the end of a membership is not written"},
		{IDsRepeat, 200, rules("repeated"), "an id is given twice"},
	}
}
