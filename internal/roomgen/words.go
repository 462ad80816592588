package roomgen

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// people are the names of members. This server's members have names from the
// beginning, the other server's from the end.
var people = []string{
	"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "kim", "leo", "mia",
	"noor", "olga", "pat", "quinn", "rosa", "sven", "tara", "uma", "vera", "wim", "xena", "yan", "zoe",
}

var words = strings.Fields(`
	about after again almost along always another any around away bake bay bell bench berry bird boat book bread
	bridge bright bring call candle carry chair clear cloud coat coffee cold come corner cup dance day deep door
	draw early east evening every far field find fire first flower follow for forest friend from garden gate give
	glass good grass green hand happy harbour hear here hill home honey hour house idea island jar keep kitchen
	lake lamp late leaf letter light like little long look love make maple market meet milk moon more morning
	mountain music near never new next night north now often old once open orange other paper path pear people
	piano picture place plan play pocket pond quick quiet rain read ready river road roof room round salt sand
	say sea season see send ship shoe shop short sing sky sleep slow small snow soft some song soon south spoon
	spring star stay stone story street summer sun sweet swim table take talk tea tell thank there thing think
	time today together tomorrow town train travel tree turn under until very village voice wait walk wall warm
	watch water way week west wide wind window winter with wood word work world write year yellow yesterday`)

var reactions = []string{"👍", "❤️", "😄", "🎉", "👀", "🙏"}

// personName returns the i-th name. For -1 and below it counts from the end. Repeated
// names get a number.
func personName(i int) string {
	if i < 0 {
		i = -1 - i
		return people[len(people)-1-i%len(people)] + round(i/len(people))
	}
	return people[i%len(people)] + round(i/len(people))
}

// round returns the number of a repeated name. The first has none.
func round(i int) string {
	if i == 0 {
		return ""
	}
	return strconv.Itoa(i + 1)
}

// sentence returns a random sentence of minWords to maxWords words.
func sentence(r *rand.Rand, minWords, maxWords int) string {
	var b strings.Builder
	for i := range minWords + r.IntN(maxWords-minWords+1) {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[r.IntN(len(words))])
	}
	return b.String()
}

// digest returns 32 bytes that depend on its arguments, for a made-up signature or the
// id of a room.
func digest(of ...any) [sha256.Size]byte { return sha256.Sum256([]byte(fmt.Sprintln(of...))) }

// roomID returns the default id of a room: 18 letters and the server.
func roomID(seed uint64, server string) string {
	letters := digest("room", seed, server)
	id := []byte("!")
	for _, b := range letters[:18] {
		id = append(id, 'a'+b%26)
	}
	return string(id) + ":" + server
}
