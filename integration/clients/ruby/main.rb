# A program that uses the client that openapi-generator generates from openapi.yaml. It creates,
# reads, searches, cancels and deletes, and prints what clients_test.go expects.
require "uri"
require "openapi_client"

STORE = "1003".freeze
GROUP = "ruby".freeze

base = URI(ARGV.fetch(0))
OpenapiClient.configure do |c|
  c.scheme = base.scheme
  c.host = "#{base.host}:#{base.port}"
  c.access_token = "t0ken"
end
batches = OpenapiClient::BatchesApi.new
control = OpenapiClient::ControlApi.new

created = batches.create_batch(
  STORE,
  [
    OpenapiClient::Request.new(id: "p", method: "POST", path: "products", body: { "name" => "Mug" }),
    OpenapiClient::Request.new(method: "GET", path: "flaky"),
  ],
  group_id: GROUP, stop_on_first_failure: false,
)
ticket = created.ticket

status = nil
status = batches.get_batch(STORE, ticket: ticket, wait: 30, details: true) until status&.status == "COMPLETED"
print status.responses.map { |r| "#{r.status} " }.join
found = batches.get_batch(STORE, status: "COMPLETED")
print "found " if found.items.any? { |b| b.ticket == ticket }
canceled = control.cancel_group(STORE, group_id: GROUP)
deleted = control.delete_batch(ticket, STORE)
begin
  batches.get_batch(STORE, ticket: ticket)
rescue OpenapiClient::ApiError => e
  refused = OpenapiClient::Error.build_from_hash(JSON.parse(e.response_body))
end
puts "canceled #{canceled.update_count} deleted #{deleted.delete_count} #{refused.error_code}"
