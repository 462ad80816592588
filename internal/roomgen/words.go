package roomgen

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// people are the names of members. Those of this server are taken from the
// beginning, those of the other from the end.
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

// personName is the i-th name, or for -1 and below the last, the one before, and
// so on. Names that come round again are numbered.
func personName(i int) string {
	if i < 0 {
		i = -1 - i
		return people[len(people)-1-i%len(people)] + round(i/len(people))
	}
	return people[i%len(people)] + round(i/len(people))
}

// round tells the bearers of one name apart; the first has nothing.
func round(i int) string {
	if i == 0 {
		return ""
	}
	return strconv.Itoa(i + 1)
}

// sentence makes up some words to say.
func sentence(r *rand.Rand, least, most int) string {
	var b strings.Builder
	for i := range least + r.IntN(most-least+1) {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[r.IntN(len(words))])
	}
	return b.String()
}

// digest is what stands for a hash, a signature or an id: 32 bytes that depend
// on all that is given.
func digest(of ...any) [sha256.Size]byte { return sha256.Sum256([]byte(fmt.Sprintln(of...))) }

// eventID is the id of the n-th event of a room: a hash of its own, as from room
// version 4 on, but not of the event.
func eventID(room string, seed uint64, n int) string {
	id := digest("event", room, seed, n)
	return "$" + base64.RawURLEncoding.EncodeToString(id[:])
}

// roomID is the id of a room that has none: 18 letters and the server.
func roomID(seed uint64, server string) string {
	letters := digest("room", seed, server)
	id := []byte("!")
	for _, b := range letters[:18] {
		id = append(id, 'a'+b%26)
	}
	return string(id) + ":" + server
}
