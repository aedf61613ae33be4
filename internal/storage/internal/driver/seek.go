package driver

// seekStep is the precision of Seek. Reading this many rows costs less than another step of the
// search.
const seekStep = 500

// Seek searches rows that are ordered by ID, the largest of which is newest. It returns an ID that
// is larger than those of all rows that are not beyond the place to find. at returns the ID of the
// last row whose ID is at most id, or 0 if there is none, and whether that row is beyond the place.
func Seek(newest int64, at func(id int64) (found int64, beyond bool, err error)) (int64, error) {
	low, high := int64(0), newest+1 // rows up to low are not beyond; rows from high on are
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

// Successor returns the smallest string, by bytes, that is larger than every string with the
// prefix. The prefix must not end in the byte 0xff, which UTF-8 never contains.
func Successor(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string([]byte{prefix[last] + 1})
}
