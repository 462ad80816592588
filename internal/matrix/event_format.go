package matrix

// EventFormat returns the number of the storage format for events of the room
// version. It is false if the version is not one of 1 to 12.
func (v RoomVersion) EventFormat() (format int, ok bool) {
	switch v {
	case "1", "2":
		return 1, true
	case "3":
		return 2, true
	case "4", "5", "6", "7", "8", "9", "10", "11":
		return 3, true
	case "12":
		return 4, true
	default:
		return 0, false
	}
}
