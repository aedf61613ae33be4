// Package sheaf puts a durable, fair, asynchronous batch endpoint in front of any
// REST API.
//
// A client hands over up to 500 HTTP requests for one store (tenant), gets a ticket,
// and reads status and answers with it. Once the ticket is out, the batch is on
// disk: whatever is killed next, its requests run in order, each answer is kept until
// it expires, and no POST or PATCH whose outcome is unknown is sent a second time.
//
// A Service is an http.Handler for the API and a Run method that runs what was
// accepted. The command sheaf is a thin user of this package.
package sheaf
