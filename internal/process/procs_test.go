package process

import (
	"runtime"
	"testing"
)

func TestBlocksMakesRoom(t *testing.T) {
	defer runtime.SetDefaultGOMAXPROCS()
	runtime.SetDefaultGOMAXPROCS()
	cores := runtime.GOMAXPROCS(0)
	var env Env
	for i := range 3 {
		env.Blocks()
		if got := runtime.GOMAXPROCS(0); got != cores+i+1 {
			t.Errorf("GOMAXPROCS %d with %d clients and %d cores", got, i+1, cores)
		}
	}
	runtime.SetDefaultGOMAXPROCS()
	env = Env{procs: procs{chosen: chosen([]string{"A=1", "GOMAXPROCS=2"})}}
	env.Blocks()
	if got := runtime.GOMAXPROCS(0); got != cores {
		t.Errorf("GOMAXPROCS %d in spite of the environment", got)
	}
	if chosen([]string{"GOMAXPROCS=", "XGOMAXPROCS=3"}) {
		t.Error("an empty GOMAXPROCS is a choice")
	}
}
