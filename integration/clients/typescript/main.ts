// A program that uses the types that openapi-typescript generates from openapi.yaml. The compiler
// checks it against them, and it prints what ../../generated_test.go expects.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Schemas = components["schemas"];

const client = createClient<paths>({
  baseUrl: process.argv[2],
  headers: { Authorization: "Bearer t0ken" },
});
const path = { storeId: "1003" };

function ok<T>(answer: { data?: T; error?: Schemas["Error"] }): T {
  if (answer.error) throw new Error(`${answer.error.errorCode}: ${answer.error.errorMessage}`);
  return answer.data as T;
}

const requests: Schemas["Request"][] = [
  { id: "p", method: "POST", path: "products", body: { name: "Mug" } },
  { id: "v", method: "POST", path: "products/{pid}/variations", refs: { "path:pid": "p#/id" } },
  { method: "GET", path: "missing" },
];
const created = ok(await client.POST("/api/v3/{storeId}/batch", {
  params: { path, query: { groupId: "typescript", stopOnFirstFailure: false } },
  body: requests,
}));
if (!created.ticket) throw new Error("no ticket");

let status: Schemas["Status"];
do {
  status = ok(await client.GET("/api/v3/{storeId}/batch", {
    params: { path, query: { ticket: created.ticket, wait: 60, details: true } },
  })) as Schemas["Status"];
} while (status.status !== "COMPLETED");
const found = ok(await client.GET("/api/v3/{storeId}/batch", {
  params: { path, query: { status: "COMPLETED" } },
})) as Schemas["Status"];
const group = ok(await client.GET("/api/v3/{storeId}/batch/group", { params: { path, query: { groupId: "typescript" } } }));
const refused = await client.GET("/api/v3/{storeId}/batch", {
  params: { path, query: { ticket: "00000000-0000-4000-8000-000000000000" } },
});

console.log(JSON.stringify({
  statuses: status.responses!.map((r) => r.status),
  path: status.responses![1].path,
  found: found.items!.some((b) => b.ticket === created.ticket),
  ended: group.responses.COMPLETED,
  refused: refused.error?.errorCode,
}));
