package webhook

import "time"

// longestPause is the longest wait that a receiver may ask for.
const longestPause = time.Hour

// outcome is the result of one attempt.
type outcome struct {
	code      int           // the answer's status code; 0: no answer
	problem   string        // why the attempt failed; "": it succeeded
	pause     time.Duration // how long the receiver asked to wait; 0: it named no time
	uncounted bool          // this node didn't make the attempt or canceled it, so it doesn't count
}
