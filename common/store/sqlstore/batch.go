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
		size := fit(b.d.sizes, n-i)
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
		rows = fit(b.d.sizes, rows)
		b.add(t.sql(rows), dst[:rows*t.cols]...)
		i += rows
	}
}

// fit returns the greatest size that is not above n.
func fit(sizes []int, n int) int {
	for _, s := range sizes {
		if s <= n {
			return s
		}
	}
	return 1
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

// weigh returns the bytes that arguments take in the text of a statement, at
// most.
func weigh(args []any) int {
	n := 0
	for _, a := range args {
		switch v := a.(type) {
		case string:
			n += quoted(v)
		case []byte:
			n += quoted(v)
		default:
			n += 20 // digits of an int64 and its sign
		}
	}
	return n
}

// quoted counts _binary, the quotes and what the driver puts a backslash before.
func quoted[T string | []byte](v T) int {
	n := len(v) + len("_binary''")
	for i := range len(v) {
		switch v[i] {
		case 0, '\n', '\r', 0x1a, '\'', '"', '\\':
			n++
		}
	}
	return n
}
