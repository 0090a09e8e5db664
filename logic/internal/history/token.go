package history

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"github.com/starling-im/starling/common/wire"
)

// A token is what a sync's next page needs: where in the list of conversations
// (byte order) it goes on, and the cursors, named by the client or reached by
// the page before, of those that are still to come. It is not secret and gives
// no rights (the primary decides what its bearer sees); it is checked so that
// a damaged one is bad_request and not a hole.
//
//	base64url( flate( version, flags, uvarint limit, str user, str after,
//	           uvarint n, n × (str conv, uvarint cursor) ), crc32 )
//
// with conversations in strictly rising order, all after `after`.
type token struct {
	user      wire.UserID
	limit     int
	newDevice bool
	after     wire.ConvID
	cursors   map[wire.ConvID]int64
}

const (
	tokenVersion  = 1
	flagNewDevice = 1
	maxTokenRaw   = 4 << 20 // unpacked
	crcLen        = 4
)

var errToken = errors.New("token is none that a sync_ok carried")

// encode packs the token; cursors of conversations at or before `after` are
// left out.
func (t *token) encode() (string, error) {
	b := []byte{tokenVersion, 0}
	if t.newDevice {
		b[1] = flagNewDevice
	}
	b = binary.AppendUvarint(b, uint64(t.limit))
	b = appendStr(b, string(t.user))
	b = appendStr(b, string(t.after))
	convs := make([]wire.ConvID, 0, len(t.cursors))
	for _, c := range slices.Sorted(maps.Keys(t.cursors)) {
		if c > t.after {
			convs = append(convs, c)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(convs)))
	for _, c := range convs {
		b = appendStr(b, string(c))
		b = binary.AppendUvarint(b, uint64(t.cursors[c]))
	}
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		return "", err //nolint:wrapcheck // never: the level is valid
	}
	if _, err := w.Write(b); err != nil {
		return "", err //nolint:wrapcheck // never: a buffer takes all
	}
	if err := w.Close(); err != nil {
		return "", err //nolint:wrapcheck // never: a buffer takes all
	}
	packed := binary.BigEndian.AppendUint32(out.Bytes(), crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(packed), nil
}

func appendStr(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeToken reads what encode wrote; errToken for anything else.
func decodeToken(s string) (*token, error) {
	packed, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(packed) < crcLen {
		return nil, errToken
	}
	body, sum := packed[:len(packed)-crcLen], packed[len(packed)-crcLen:]
	r := flate.NewReader(bytes.NewReader(body))
	raw, err := io.ReadAll(io.LimitReader(r, maxTokenRaw))
	if err != nil || crc32.ChecksumIEEE(raw) != binary.BigEndian.Uint32(sum) {
		return nil, errToken
	}
	return parseToken(raw)
}

func parseToken(raw []byte) (*token, error) {
	d := reader{b: raw}
	version, flags := d.byte(), d.byte()
	t := &token{
		newDevice: flags&flagNewDevice != 0,
		limit:     int(d.num()),
		user:      wire.UserID(d.str()),
		after:     wire.ConvID(d.str()),
	}
	n := d.num()
	if d.bad || version != tokenVersion || flags > flagNewDevice || t.limit < 1 || t.limit > wire.MaxSyncLimit ||
		!wire.ValidID(string(t.user)) || n > wire.MaxSyncCursors+1 || !validAfter(t.after) {
		return nil, errToken
	}
	t.cursors = make(map[wire.ConvID]int64, min(n, uint64(len(d.b))))
	last := t.after
	for range n {
		conv, seq := wire.ConvID(d.str()), int64(d.num())
		if d.bad || seq < 0 || conv <= last {
			return nil, errToken
		}
		if _, err := conv.Parse(); err != nil {
			return nil, errToken
		}
		t.cursors[conv], last = seq, conv
	}
	if len(d.b) != 0 {
		return nil, errToken
	}
	return t, nil
}

func validAfter(c wire.ConvID) bool {
	if c == "" {
		return true
	}
	_, err := c.Parse()
	return err == nil
}

// reader takes values off b; bad stays set after the first that is not there.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) num() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) str() string {
	n := r.num()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
