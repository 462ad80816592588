package jobs

import (
	"crypto/sha256"
	"math/big"
	"strings"
)

// DerivedID makes a job's id from words that say what the job is for. The same words
// always give the same id, and different words different ids. No word may contain a
// NUL.
func DerivedID(words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	// 256 bits are far more than 16 letters hold, so all letters are about equally
	// likely.
	rest, letter := new(big.Int).SetBytes(sum[:]), new(big.Int)
	base := big.NewInt(int64(len(letters)))
	id := make([]byte, idLength)
	for i := range id {
		rest.DivMod(rest, base, letter)
		id[i] = letters[letter.Int64()]
	}
	return string(id)
}
