//go:build !(linux && amd64)

package clockstep

type patch struct{}

func findPatch(int) (*patch, error) { return nil, ErrUnsupported }

func (*patch) busy() (bool, error) { return false, ErrUnsupported }

func (*patch) write(int32) error { return ErrUnsupported }
