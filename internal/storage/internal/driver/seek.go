package driver

// seekStep is how close Seek comes: that many rows are cheaper to look through than to seek in.
const seekStep = 500

// Seek finds a place in rows that are ordered by an ID up to newest: an ID that all rows are
// smaller than which lie not beyond what is looked for. at returns the ID of the last row up to an ID,
// 0 if there is none, and whether that lies beyond.
func Seek(newest int64, at func(id int64) (found int64, beyond bool, err error)) (int64, error) {
	low, high := int64(0), newest+1 // up to low nothing is beyond; from high on everything is
	for high-low > seekStep {
		middle := low + (high-low)/2
		found, beyond, err := at(middle)
		switch {
		case err != nil:
			return 0, err
		case beyond:
			high = found
		default:
			low = middle
		}
	}
	return high, nil
}

// Successor returns the first string, by bytes, after all strings that begin with a prefix. The prefix
// must not end in a byte 0xff, which UTF-8 does not have.
func Successor(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string([]byte{prefix[last] + 1})
}
