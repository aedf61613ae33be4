// Package sheaf puts a durable, fair, asynchronous batch endpoint in front of any REST API.
//
// A client sends up to 500 HTTP requests for one store (a tenant) in one call and gets a ticket. It
// then uses the ticket to read the batch's status and the answers. Once a client has its ticket, the
// batch is on disk and survives killed processes. Its requests run in order unless it allows parallel
// mode. Each answer is kept until it expires. A POST or PATCH whose outcome is unknown is not sent
// again, unless Retries.InDoubt is set.
//
// A Service is an http.Handler that serves the API. Its Run method runs the batches:
//
//	service, err := sheaf.New(sheaf.Options{
//		Upstream: sheaf.Upstream{URL: "http://127.0.0.1:9000/api/v3/{storeId}"},
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer service.Close()
//	go http.ListenAndServe("127.0.0.1:8080", service)
//	log.Fatal(service.Run(context.Background()))
//
// The command sheaf adds flags, TLS, a dashboard and limits on connections to this package.
package sheaf
