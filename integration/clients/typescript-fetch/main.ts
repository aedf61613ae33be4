// A program that uses the client that openapi-generator generates from openapi.yaml. It creates,
// reads, searches, cancels and deletes, and prints what clients_test.go expects.
import { BatchesApi, Configuration, ControlApi, ResponseError } from "./client/index.js";

const service = new Configuration({ basePath: process.argv[2], accessToken: "t0ken" });
const batches = new BatchesApi(service);
const control = new ControlApi(service);
const storeId = "1003";
const groupId = "typescript-fetch";

const created = await batches.createBatch({
  storeId,
  groupId,
  stopOnFirstFailure: false,
  request: [
    { id: "p", method: "POST", path: "products", body: { name: "Mug" } },
    { method: "GET", path: "flaky" },
  ],
});
const ticket = created.ticket!;

let status;
do {
  status = await batches.getBatch({ storeId, ticket, details: true, wait: 30 });
} while (status?.status !== "COMPLETED");
const said: (string | number)[] = status.responses!.map((r) => r.status);
const found = await batches.getBatch({ storeId, status: "COMPLETED" });
if (found!.items!.some((b) => b.ticket === ticket)) said.push("found");
said.push("canceled", (await control.cancelGroup({ storeId, groupId })).updateCount);
said.push("deleted", (await control.deleteBatch({ storeId, ticketId: ticket })).deleteCount);
try {
  await batches.getBatch({ storeId, ticket });
} catch (e) {
  if (!(e instanceof ResponseError)) throw e;
  said.push((await e.response.json()).errorCode);
}
console.log(said.join(" "));
