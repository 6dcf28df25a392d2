"""Clients and servers of other make, that speak with each other through ingress: gRPC of grpcio, WebSockets of websockets, and
HTTP of Python's own. A client fails, saying what it met, unless all is as it must be."""

import http.client
import json
import queue
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MIB = 1 << 20


def same(what, found, wanted):
    assert found == wanted, f"{what}: {found!r:.300}, not {wanted!r:.300}"


def server_grpc(port):
    import grpc
    from concurrent import futures

    cancelled = []

    def unary(request, context):
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"), ("x-last-bin", b"\0\xff")))
        said = dict(context.invocation_metadata())
        return json.dumps({"length": len(request), "for": said.get("x-forwarded-for"), "asked": said.get("x-asked")}).encode()

    def echo(request, _):
        return request

    def down(request, _):
        for number in range(int(request)):
            yield b"%d" % number

    def up(requests, _):
        return b"".join(requests)

    def both(requests, _):
        for request in requests:
            yield request[::-1]

    def slow(_, context):
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(30)
        cancelled.append(time.monotonic())
        return b""

    def count(_, __):
        return b"%d" % len(cancelled)

    def fail(_, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00fc %")

    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Count": grpc.unary_unary_rpc_method_handler(count),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", 16 * MIB)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", kinds),))
    assert server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def client_grpc(address, host, ca):
    import grpc

    credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
    options = [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host),
               ("grpc.max_receive_message_length", 16 * MIB), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"{address}:443", credentials, options) as channel:
        def method(kind, name):
            return getattr(channel, kind)(f"/test.Peer/{name}")

        answer, call = method("unary_unary", "Unary").with_call(b"x" * 100, timeout=10, metadata=(("x-asked", "a"),))
        answer = json.loads(answer)
        same("unary", (answer["length"], answer["asked"]), (100, "a"))
        assert answer["for"], "the server is not told for whom it is asked"
        same("first metadata", dict(call.initial_metadata()).get("x-first"), "1")
        last = dict(call.trailing_metadata())
        same("last metadata", (last.get("x-last"), last.get("x-last-bin")), ("2", b"\0\xff"))
        same("status", call.code(), grpc.StatusCode.OK)

        large = bytes(range(256)) * (3 * MIB // 256)
        same("a large message", method("unary_unary", "Echo")(large, timeout=20) == large, True)
        same("server stream", list(method("unary_stream", "Down")(b"1000", timeout=20)), [b"%d" % n for n in range(1000)])
        pieces = [b"%d," % n for n in range(1000)]
        same("client stream", method("stream_unary", "Up")(iter(pieces), timeout=20), b"".join(pieces))

        # Each message is sent when the answer to the one before has come.
        outbox = queue.Queue()
        answers = method("stream_stream", "Both")(iter(outbox.get, None), timeout=20)
        for number in range(50):
            outbox.put(b"%04d" % number)
            same("both streams", next(answers), (b"%04d" % number)[::-1])
        outbox.put(None)
        same("the end of both streams", (list(answers), answers.code()), ([], grpc.StatusCode.OK))

        def failure(call):
            try:
                call()
            except grpc.RpcError as error:
                return error
            raise AssertionError("the call did not fail")

        error = failure(lambda: method("unary_unary", "Fail")(b"", timeout=10))
        same("a failure", (error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00fc %"))
        same("its metadata", dict(error.trailing_metadata()).get("x-why"), "because")
        error = failure(lambda: method("unary_unary", "Nothing")(b"", timeout=10))
        same("no method", error.code(), grpc.StatusCode.UNIMPLEMENTED)

        begun = time.monotonic()
        error = failure(lambda: method("unary_unary", "Slow")(b"", timeout=0.5))
        same("a deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        assert time.monotonic() - begun < 5, "the deadline came late"
        call = method("unary_unary", "Slow").future(b"", timeout=20)
        # The server has it, once it answers something that was asked later.
        method("unary_unary", "Count")(b"", timeout=10)
        call.cancel()
        until = time.monotonic() + 10
        while int(method("unary_unary", "Count")(b"", timeout=10)) < 2:
            assert time.monotonic() < until, "the server is not told that a call was cancelled"

        calls = [method("unary_unary", "Echo").future(b"%d" % n, timeout=20) for n in range(500)]
        same("many at once", [call.result() for call in calls], [b"%d" % n for n in range(500)])


def server_ws(port):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.server import serve

    def handle(connection):
        try:
            talk(connection)
        except ConnectionClosed:
            pass
        finally:
            codes.append(connection.close_code)

    def talk(connection):
        for message in connection:
            if message == "close":
                connection.close(4002, "as asked")
            elif message == "ping":
                connection.ping("from the server").wait(10)
                connection.send("ponged")
            elif message == "about":
                headers = connection.request.headers
                connection.send(json.dumps({"for": headers.get("X-Forwarded-For"), "proto": headers.get("X-Forwarded-Proto"),
                                            "path": connection.request.path,
                                            "extensions": [type(e).__name__ for e in connection.protocol.extensions]}))
            else:
                connection.send(message)
    codes = []

    def plain(connection, request):
        if request.path == "/codes":
            return connection.respond(200, json.dumps(codes))
        if request.path == "/no":
            return connection.respond(403, "no")
        return None

    with serve(handle, "0.0.0.0", port, process_request=plain, max_size=None) as server:
        server.serve_forever()


def client_ws(address, host, ca, idle):
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    def open_(scheme, path="/ws?a=b", **more):
        raw = socket.create_connection((address, 443 if scheme == "wss" else 80), 10)
        if scheme == "wss":
            more.update(ssl=ssl.create_default_context(cafile=ca), server_hostname=host)
        return connect(f"{scheme}://{host}{path}", sock=raw, max_size=None, proxy=None, **more)

    def codes():
        asked = http.client.HTTPConnection(address, timeout=10)
        asked.request("GET", "/codes", headers={"Host": host})
        return json.loads(asked.getresponse().read())

    wanted = []
    for scheme in ("ws", "wss"):
        for compression in ("deflate", None):
            with open_(scheme, compression=compression) as peer:
                peer.send("about")
                about = json.loads(peer.recv(10))
                assert about["for"], about
                same("what the server is told", (about["proto"], about["path"]),
                     ("https" if scheme == "wss" else "http", "/ws?a=b"))
                same("extensions", about["extensions"], ["PerMessageDeflate"] if compression else [])
                for message in ("text \u00fc", "", b"\0\xff", b"x" * MIB, bytes(range(256)) * (MIB // 256), "y" * MIB):
                    peer.send(message)
                    same("an echo", peer.recv(20) == message, True)
                assert peer.ping().wait(10), "no pong"
                peer.send("ping")
                same("a ping of the server", peer.recv(10), "ponged")
                # Many on the way at once, in their order.
                for number in range(500):
                    peer.send(str(number))
                same("many at once", [peer.recv(10) for _ in range(500)], [str(number) for number in range(500)])
                peer.close(4001, "enough")
                wanted.append(4001)
            with open_(scheme) as peer:
                peer.send("close")
                try:
                    peer.recv(10)
                    raise AssertionError("the server did not close")
                except ConnectionClosed as closed:
                    same("the code of the server", (closed.rcvd.code, closed.rcvd.reason), (4002, "as asked"))
                wanted.append(4002)
        try:
            open_(scheme, "/no")
            raise AssertionError("a refused handshake succeeded")
        except InvalidStatus as refused:
            same("a refusal", refused.response.status_code, 403)
    until = time.monotonic() + 10
    while sorted(codes()) != sorted(wanted):
        assert time.monotonic() < until, f"the server saw {codes()}, not {wanted}"
    # Idle for less than the time that the route allows, and then for more.
    with open_("wss", ping_interval=None) as peer:
        time.sleep(idle * 0.7)
        peer.send("still here")
        same("after a rest", peer.recv(10), "still here")
        begun = time.monotonic()
        try:
            peer.recv(idle * 4)
            raise AssertionError("an idle tunnel said something")
        except ConnectionClosed:
            took = time.monotonic() - begun
            assert idle * 0.5 < took, f"the tunnel was closed after {took} s, not {idle} s"


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    read = threading.Semaphore(0)

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for number in range(20):
            self.wfile.write(b"data: %d\n\n" % number)
            self.wfile.flush()
            # The next one is sent when somebody has read this one.
            assert self.read.acquire(timeout=20)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/sse/read":
            self.read.release()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def server_http(port):
    ThreadingHTTPServer(("0.0.0.0", port), Http).serve_forever()


def client_sse(address, host, ca):
    for secure in (False, True):
        def open_():
            if not secure:
                return http.client.HTTPConnection(address, timeout=10)
            made = http.client.HTTPSConnection(host, context=ssl.create_default_context(cafile=ca), timeout=10)
            made._create_connection = lambda _, *more: socket.create_connection((address, 443), *more)
            return made

        events, asker = open_(), open_()
        events.request("GET", "/sse/events", headers={"Host": host, "Accept": "text/event-stream"})
        answer = events.getresponse()
        for number in range(20):
            same("an event", (answer.readline(), answer.readline()), (b"data: %d\n" % number, b"\n"))
            asker.request("POST", "/sse/read", headers={"Host": host})
            same("the asker", asker.getresponse().read(), b"")
        same("the end", answer.read(), b"")


role, *rest = sys.argv[1:]
if role.startswith("server"):
    {"server-grpc": server_grpc, "server-ws": server_ws, "server-http": server_http}[role](int(rest[0]))
elif role == "client-ws":
    client_ws(rest[0], rest[1], rest[2], float(rest[3]))
else:
    {"client-grpc": client_grpc, "client-sse": client_sse}[role](*rest)
