package clockstep

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// stub is what stands in the place of clock_gettime(clock, *timespec).
var stub = [...]byte{ //nolint:gochecknoglobals // a constant
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, SYS_clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax, eax
	0x75, 0x0b, // jne ret
	0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
	0x75, 0x07, // jne ret
	0x48, 0x81, 0x06, 0, 0, 0, 0, // add qword [rsi], seconds
	0xc3, // ret
}

const (
	secondsAt = len(stub) - 5
	jumpLen   = 5
	room      = 64 // bytes at the end of the page for the stub
)

// patch is where the code of a process is changed.
type patch struct {
	pid   int
	entry uint64        // of clock_gettime, in the process
	stub  uint64        // in the process
	was   [jumpLen]byte // what the kernel put at entry
}

func findPatch(pid int) (*patch, error) {
	image, _, err := vdso(os.Getpid())
	if err != nil {
		return nil, err
	}
	_, base, err := vdso(pid)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("read the vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return nil, fmt.Errorf("read the vDSO: %w", err)
	}
	at := uint64(len(image) - room)
	if !bytes.Equal(image[at:], make([]byte, room)) {
		return nil, fmt.Errorf("the vDSO has no empty end: %w", ErrUnsupported)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Value+jumpLen < at {
			p := &patch{pid: pid, entry: base + s.Value, stub: base + at}
			copy(p.was[:], image[s.Value:])
			return p, nil
		}
	}
	return nil, fmt.Errorf("the vDSO has no __vdso_clock_gettime: %w", ErrUnsupported)
}

// vdso returns a process's, and where it is mapped.
func vdso(pid int) (image []byte, base uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid)) //nolint:gosec // of /proc
	if err != nil {
		return nil, 0, fmt.Errorf("find the vDSO: %w", err)
	}
	var end uint64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err := fmt.Sscanf(line, "%x-%x", &base, &end); err != nil {
				return nil, 0, fmt.Errorf("find the vDSO: %w", err)
			}
		}
	}
	if base == 0 {
		return nil, 0, fmt.Errorf("the process has no vDSO: %w", ErrUnsupported)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid)) //nolint:gosec // of /proc
	if err != nil {
		return nil, 0, fmt.Errorf("read the vDSO: %w", err)
	}
	defer func() { _ = mem.Close() }()
	image = make([]byte, end-base)
	if _, err := mem.ReadAt(image, int64(base)); err != nil {
		return nil, 0, fmt.Errorf("read the vDSO: %w", err)
	}
	return image, base, nil
}

// busy says whether a thread stands behind the first byte that is to be changed.
func (p *patch) busy() (bool, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", p.pid))
	if err != nil {
		return false, fmt.Errorf("list its threads: %w", err)
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t) //nolint:gosec // of /proc
		fields := strings.Fields(string(b))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || err == nil && len(fields) == 0 {
			continue // ended
		}
		if err != nil {
			return false, fmt.Errorf("see where its threads are: %w", err)
		}
		pc, err := strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil || pc > p.entry && pc < p.entry+jumpLen { // "running": not yet
			return true, nil //nolint:nilerr // it is tried again
		}
	}
	return false, nil
}

// write changes the code. The stub stays where it is: a thread may be in it.
func (p *patch) write(seconds int32) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.pid), os.O_RDWR, 0) //nolint:gosec // of /proc
	if err != nil {
		return fmt.Errorf("open its memory: %w", err)
	}
	defer func() { _ = mem.Close() }()
	code, jump := stub, p.was
	binary.LittleEndian.PutUint32(code[secondsAt:], uint32(seconds))
	if seconds != 0 {
		jump[0] = 0xe9 // jmp, relative to what follows it
		binary.LittleEndian.PutUint32(jump[1:], uint32(int32(p.stub-p.entry)-jumpLen))
	}
	if _, err := mem.WriteAt(code[:], int64(p.stub)); err != nil {
		return fmt.Errorf("write to its vDSO: %w", err)
	}
	if _, err := mem.WriteAt(jump[:], int64(p.entry)); err != nil {
		return fmt.Errorf("write to its vDSO: %w", err)
	}
	return nil
}
