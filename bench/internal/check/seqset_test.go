package check

import "testing"

func TestSeqset(t *testing.T) {
	var s seqset
	for _, seq := range []int64{3, 63, 64, 200} {
		if !s.add(seq) || s.add(seq) {
			t.Errorf("%d is not new, or new again", seq)
		}
	}
	for _, c := range []struct{ seq, want int64 }{{2, 0}, {3, 3}, {62, 3}, {63, 63}, {64, 64}, {199, 64}, {200, 200}, {1000, 200}} {
		if got := s.floor(c.seq); got != c.want {
			t.Errorf("floor of %d is %d, want %d", c.seq, got, c.want)
		}
	}
	if s.n != 4 || s.min() != 3 || s.max() != 200 || s.missing(63, 66) != 65 || s.missing(63, 64) != 0 {
		t.Errorf("%+v", s)
	}
	if new(seqset).floor(9) != 0 {
		t.Error("nothing has a floor")
	}
}
