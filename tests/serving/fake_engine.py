"""A small server in the place of an engine: real HTTP, no model. Run as a script, never imported."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--fd", type=int)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int)
parser.add_argument("--alias", "--served-model-name", required=True)
parser.add_argument("--say", default="Hello!")
parser.add_argument("--status", type=int, default=200)
parser.add_argument("--garbage", action="store_true")
args, _ = parser.parse_known_args()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": args.alias}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"content": args.say}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        self.answer(args.status, {} if args.garbage else {"choices": [{"message": message}], "usage": usage})

    def answer(self, status: int, body: dict[str, object]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if args.fd is None:
    try:
        server = HTTPServer((args.host, args.port), Answers)
    except OSError as error:
        sys.exit(f"fake engine: {error.strerror}")
else:
    server = HTTPServer(("", 0), Answers, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=args.fd)
server.serve_forever()
