package output

import (
	"math"
	"strconv"
	"strings"
)

// Count returns a number with a comma between thousands.
func Count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Counted returns a number with the word for what is counted, such as "1 hold" and "2,000
// holds". one is the word for one of them. Its plural must end with s or, if the word does
// so itself, with es.
func Counted[N int | int64](n N, one string) string {
	many := one + "s"
	if strings.HasSuffix(one, "s") {
		many = one + "es"
	}
	return Count(int64(n)) + " " + Agree(n, one, many)
}

// Agree returns the word that goes with a number: one with 1, such as "is", and many with
// all others, such as "are".
func Agree[N int | int64](n N, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// Fraction returns a number for people: with one decimal place, or two if it is below 1.
// Zeros at its end are left out.
func Fraction(n float64) string {
	places := 1
	if math.Abs(n) < 1 {
		places = 2
	}
	text := strconv.FormatFloat(n, 'f', places, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}
