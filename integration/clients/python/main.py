"""A program that uses the client that openapi-python-client generates from openapi.yaml.

It prints what ../../generated_test.go expects.
"""

import json
import sys
from uuid import UUID

from api import AuthenticatedClient
from api.api.batches import create_batch, get_batch, get_group
from api.models import BatchStatus, Error, Request, RequestMethod, RequestRefs, Status

store = "1003"
client = AuthenticatedClient(base_url=sys.argv[1], token="t0ken")

variation = Request(id="v", method=RequestMethod.POST, path="products/{pid}/variations", refs=RequestRefs())
variation.refs.additional_properties = {"path:pid": "p#/id"}
created = create_batch.sync(
    store,
    client=client,
    body=[
        Request(id="p", method=RequestMethod.POST, path="products", body={"name": "Mug"}),
        variation,
        Request(method=RequestMethod.GET, path="missing"),
    ],
    group_id="python",
    stop_on_first_failure=False,
)
while True:
    status = get_batch.sync(store, client=client, ticket=created.ticket, wait=2, details=True)
    assert isinstance(status, Status), status
    if status.status == BatchStatus.COMPLETED:
        break

found = get_batch.sync(store, client=client, status=BatchStatus.COMPLETED)
assert isinstance(found, Status), found
group = get_group.sync(store, client=client, group_id="python")
refused = get_batch.sync(store, client=client, ticket=UUID("00000000-0000-4000-8000-000000000000"))
assert isinstance(refused, Error), refused

print(
    json.dumps(
        {
            "statuses": [r.status.value for r in status.responses],
            "path": status.responses[1].path,
            "found": any(b.ticket == created.ticket for b in found.items),
            "ended": group.responses.completed,
            "refused": refused.error_code.value,
        }
    )
)
