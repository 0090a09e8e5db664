package e2e

import "testing"

// TestRealAllInOne runs the scenarios on one process and real servers. This file
// is the first of those by name: the faults, which are timed, come when the
// brokers have been at work for a while and their compilers are done.
func TestRealAllInOne(t *testing.T) {
	runScenarios(t, RealServers(t, binary).All(t, patient()...))
}

// TestRealSplit runs them on two edges, two logics and two jobs.
func TestRealSplit(t *testing.T) {
	runScenarios(t, RealServers(t, binary).Split(t, patient()...))
}

// TestRealTranscripts plays the contract there.
func TestRealTranscripts(t *testing.T) {
	servers := RealServers(t, binary)
	playTranscripts(t, func(t *testing.T, settings ...string) *System {
		t.Helper()
		return servers.Split(t, append(patient(), settings...)...)
	})
}
