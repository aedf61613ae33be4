package dashboard

import (
	"crypto/rand"
	"net/netip"
	"sync"
	"time"
)

const (
	sessionTime = 12 * time.Hour // from sign-in to expiry
	maxSessions = 4096
)

// sessions holds the sessions of the users who signed in on this node. The browser has a random ID;
// the token stays here. When there are too many sessions, the network with the most sessions loses
// its oldest one. So a user can't end the sessions of other networks by signing in often.
type sessions struct {
	mu   sync.Mutex
	byID map[string]session
	now  func() time.Time
}

type session struct {
	token   string
	network netip.Prefix // where the user signed in from
	began   time.Time
}

func newSessions() *sessions { return &sessions{byID: map[string]session{}, now: time.Now} }

// begin begins a session and returns its ID.
func (s *sessions) begin(token, address string) string {
	id := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= maxSessions {
		s.makeRoom()
	}
	s.byID[id] = session{token, networkOf(address), s.now()}
	return id
}

// networkOf returns the network that sessions are counted for: an IPv4 address or an IPv6 /64.
func networkOf(address string) netip.Prefix {
	from, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := from.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	network, _ := ip.Prefix(bits) // fails only if bits is out of range
	return network
}

// makeRoom removes expired sessions. If that isn't enough, it removes the oldest session of the
// network that has the most.
func (s *sessions) makeRoom() {
	counts := map[netip.Prefix]int{}
	for id, x := range s.byID {
		if s.isExpired(x) {
			delete(s.byID, id)
			continue
		}
		counts[x.network]++
	}
	if len(s.byID) < maxSessions {
		return
	}
	oldest, most := "", 0
	for id, x := range s.byID {
		n := counts[x.network]
		if oldest == "" || n > most || n == most && x.began.Before(s.byID[oldest].began) {
			oldest, most = id, n
		}
	}
	delete(s.byID, oldest)
}

func (s *sessions) isExpired(x session) bool { return s.now().Sub(x.began) >= sessionTime }

// token returns the token of a session, or "" if the session is unknown or has expired.
func (s *sessions) token(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.byID[id]
	if ok && s.isExpired(x) {
		delete(s.byID, id)
		ok = false
	}
	if !ok {
		return ""
	}
	return x.token
}

// end ends a session.
func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}
