package sqlstore

import (
	"slices"
	"strings"
)

// batch collects the statements of a transaction.
type batch struct {
	d     *dialect
	limit int // bytes of one statement; 0: any
	list  []statement
}

// add appends one statement.
func (b *batch) add(text string, args ...any) {
	b.list = append(b.list, statement{sql: text, args: args})
}

// insert appends the INSERTs of n rows; args appends the columns of row i.
func (b *batch) insert(t *table, n int, args func(dst []any, i int) []any) {
	for i := 0; i < n; {
		size := b.d.fit(n - i)
		dst := make([]any, 0, size*t.cols)
		rows := 0
		for bytes := len(t.head) + len(t.tail); rows < size; rows++ {
			dst = args(dst, i+rows)
			if b.limit > 0 {
				bytes += len(t.row) + 1 + weigh(dst[rows*t.cols:])
				if rows > 0 && bytes > b.limit {
					break
				}
			}
		}
		rows = b.d.fit(rows)
		b.add(t.sql(rows), dst[:rows*t.cols]...)
		i += rows
	}
}

// round returns the smallest number of terms that holds n, else the greatest.
func round(sizes []int, n int) int {
	for _, s := range slices.Backward(sizes) {
		if s >= n {
			return s
		}
	}
	return sizes[0]
}

// exactly returns the numbers of terms for n keys that are asked for as text, so
// that nothing need be filled up.
func exactly(n int) []int {
	const most = 200
	if n <= most || n%most == 0 {
		return []int{min(n, most)}
	}
	return []int{most, n % most}
}

// anyOf makes statements "head (term OR term …) tail", so many that all keys
// are asked for; args appends the arguments of one term. terms are numbers of
// terms, descending; the last key fills up to one of them.
func anyOf[K any](terms []int, head, term, tail string, keys []K, before, after []any, args func(dst []any, k K) []any) []statement {
	var list []statement
	for part := range slices.Chunk(keys, terms[0]) {
		n := round(terms, len(part))
		all := slices.Clone(before)
		for i := range n {
			all = args(all, part[min(i, len(part)-1)])
		}
		list = append(list, statement{
			sql:  head + " (" + term + strings.Repeat(" OR "+term, n-1) + ")" + tail,
			args: append(all, after...),
		})
	}
	return list
}
