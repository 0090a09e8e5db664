package e2e

import "testing"

// TestRealAllInOne runs the scenarios on one process and real servers.
func TestRealAllInOne(t *testing.T) {
	runScenarios(t, RealServers(t, binary).All(t, patient()...))
}

// TestRealSplit runs them on two edges, two logics and two jobs.
func TestRealSplit(t *testing.T) {
	runScenarios(t, RealServers(t, binary).Split(t, patient()...))
}
