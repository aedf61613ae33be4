package outbound

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCrowdedAddress checks the limit of concurrent calls to an address, over all names and ports.
func TestCrowdedAddress(t *testing.T) {
	arrived, leave := make(chan struct{}, 2*perAddress), make(chan struct{})
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-leave
	})
	var urls []string
	for range 2 {
		s := httptest.NewServer(handler)
		defer s.Close()
		urls = append(urls, s.URL, strings.Replace(s.URL, "127.0.0.1", "localhost", 1))
	}
	client := Receiver(&Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, time.Minute)
	get := func(url string) error {
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	var all sync.WaitGroup
	for i := range perAddress {
		all.Go(func() {
			if err := get(urls[i%len(urls)]); err != nil {
				t.Error(err)
			}
		})
	}
	for range perAddress {
		<-arrived
	}
	for _, url := range urls {
		if err := get(url); !IsCrowded(err) {
			t.Errorf("one more call to %s: %v, want an error that IsCrowded", url, err)
		}
	}
	close(leave)
	all.Wait()
	if err := get(urls[0]); err != nil {
		t.Errorf("after the other calls: %v", err)
	}
}
