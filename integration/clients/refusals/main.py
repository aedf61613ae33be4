"""Checks that clients that send a whole body before they read still receive the refusal.

The arguments are addresses. It prints one line for each unexpected answer.
"""

import sys

import httpx
import requests
import urllib3

urllib3.disable_warnings()
MIB = 1 << 20
TOKEN = {"Authorization": "Bearer t0ken"}
CASES = [  # path, headers, bytes, in chunks, status
    ("batch", {}, 9 * MIB, False, 401),
    ("batch", {}, 3 * MIB, True, 401),
    ("batch", {"Authorization": "Bearer (no token)"}, 2 * MIB, False, 403),
    ("batch", TOKEN, 12 * MIB, False, 413),
    ("batch", TOKEN, 12 * MIB, True, 413),
    ("batch", TOKEN | {"Content-Type": "text/plain"}, 2 * MIB, False, 415),
    ("batch/cancel-group?groupId=g", TOKEN, 2 * MIB, True, 415),
    ("nothing", TOKEN, 2 * MIB, False, 404),
]


def in_chunks(body):
    for i in range(0, len(body), MIB):
        yield body[i : i + MIB]


def clients(address):
    yield "requests", requests.Session().post, {"verify": False, "timeout": 60}, "data"
    one = httpx.Client(verify=False, timeout=60)
    yield "httpx", one.post, {}, "content"
    if address.startswith("https:"):
        two = httpx.Client(verify=False, timeout=60, http1=False, http2=True)
        yield "httpx over HTTP/2", two.post, {}, "content"


for address in sys.argv[1:]:
    for name, post, options, body_option in clients(address):
        for path, headers, size, chunked, status in CASES:
            body = b"x" * size
            try:
                answer = post(
                    f"{address}/api/v3/1003/{path}",
                    headers={"Content-Type": "application/json"} | headers,
                    **{body_option: in_chunks(body) if chunked else body},
                    **options,
                )
                got = answer.status_code if answer.json()["errorCode"] else "no errorCode"
            except Exception as e:  # what a caller sees instead of the answer
                got = repr(e)
            if got != status:
                print(f"{name}, {address}, {path}, {size} bytes, in chunks {chunked}: {got}, want {status}")
