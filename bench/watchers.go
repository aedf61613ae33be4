package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

// watchers measures the cost of clients that wait for changes of a batch, and how soon they get them.
func (b *bench) watchers(ctx context.Context) ([]figure, error) {
	many := 5000
	if b.small {
		many = 100
	}
	w, err := b.setUp(ctx, "watchers", "-latency", "3s")
	if err != nil {
		return nil, err
	}
	defer w.end()
	svc := w.service
	idle := svc.memory().resident
	t, err := svc.create(ctx, storeName(0), false, batchBody(2))
	if err != nil {
		return nil, err
	}
	address := strings.TrimPrefix(svc.nodes[0], "http://")
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", batchPath(t.store, "wait=60&responses=false&ticket="+t.id), address, token)
	conns := make([]net.Conn, 0, many)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range many {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		conns = append(conns, c)
		if _, err := c.Write([]byte(request)); err != nil {
			return nil, err
		}
	}
	var first, last time.Time
	select { // until all of them wait; the batch's first answer arrives after 3 s
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	waiting, most := svc.memory().resident, int64(0)
	for i, c := range conns {
		status, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.Contains(status, "200") {
			return nil, fmt.Errorf("watcher %d: %q: %w", i, status, err)
		}
		if last = time.Now(); i == 0 {
			first = last
		}
		most = max(most, svc.memory().peak)
	}
	b.say("%d watchers: %d MB above %d MB while they wait; the last was answered %v after the first", many, (waiting-idle)/1e6, idle/1e6, last.Sub(first))
	return []figure{
		{Name: fmt.Sprintf("memory of %d waiting watchers, above idle", many), Value: megabytes(waiting - idle), Unit: "MB", Goal: 200},
		{Name: "memory at the peak, when all of them are answered at once", Value: megabytes(most), Unit: "MB"},
		{Name: fmt.Sprintf("from the first answer to %d watchers to the last", many), Value: value(inMilliseconds(last.Sub(first))), Unit: "ms"},
	}, nil
}
