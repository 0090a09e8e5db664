package check

import (
	"math/bits"
	"slices"
)

// seqset is a set of seqs, a bit each.
type seqset struct {
	words []uint64
	n     int
}

func (s *seqset) has(seq int64) bool {
	w := seq >> 6
	return seq >= 0 && w < int64(len(s.words)) && s.words[w]&(1<<(seq&63)) != 0
}

// add says whether seq was not there yet.
func (s *seqset) add(seq int64) bool {
	if seq < 0 || s.has(seq) {
		return false
	}
	for w := seq >> 6; w >= int64(len(s.words)); {
		s.words = append(s.words, 0)
	}
	s.words[seq>>6] |= 1 << (seq & 63)
	s.n++
	return true
}

// max is the highest member, 0 of none.
func (s *seqset) max() int64 {
	for w, word := range slices.Backward(s.words) {
		if word != 0 {
			return int64(w<<6 + bits.Len64(word) - 1)
		}
	}
	return 0
}

// floor is the highest member up to seq, 0 of none.
func (s *seqset) floor(seq int64) int64 {
	for w := min(seq>>6, int64(len(s.words))-1); w >= 0; w-- {
		word := s.words[w]
		if w == seq>>6 {
			word &= 1<<(seq&63)<<1 - 1
		}
		if word != 0 {
			return w<<6 + int64(bits.Len64(word)) - 1
		}
	}
	return 0
}

// min is the lowest member, 0 of none.
func (s *seqset) min() (lowest int64) {
	s.each(func(seq int64) bool {
		lowest = seq
		return false
	})
	return lowest
}

// missing returns the first of [from, to] that is not there, 0 if all are.
func (s *seqset) missing(from, to int64) int64 {
	for seq := max(from, 1); seq <= to; seq++ {
		if !s.has(seq) {
			return seq
		}
	}
	return 0
}

// each calls f with every member, ascending, until it returns false.
func (s *seqset) each(f func(seq int64) bool) {
	for w, word := range s.words {
		for ; word != 0; word &= word - 1 {
			if !f(int64(w<<6 + bits.TrailingZeros64(word))) {
				return
			}
		}
	}
}

func (s *seqset) clone() seqset {
	return seqset{words: append([]uint64(nil), s.words...), n: s.n}
}
