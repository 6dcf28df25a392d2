"""Servers and readers of other make, that say exactly what they understood.

`serve` runs a backend for each parser, says their ports in a line of JSON, and for each line of input that names a file writes
there all that the backends saw, in the order in which they saw it. `read` says what the strict parsers make of the bytes that
clients sent: h11 of HTTP/1, h2 of HTTP/2. Bytes are in JSON as Latin-1.
"""

import asyncio
import json
import sys

import h11
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack
import httptools
import hyperframe.frame
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser

SEEN = []
MANY = 1 << 20


def text(data):
    return bytes(data).decode("latin-1")


def pairs(headers):
    return [[text(name).lower(), text(value)] for name, value in headers]


class Entry(dict):
    """A request as a backend understood it."""

    def __init__(self, backend, connection):
        super().__init__(
            backend=backend, connection=connection, method="", target="", headers=None, body="", trailers=[],
            complete=False, error="", client=[], raw="",
        )
        self["id"] = str(len(SEEN))
        SEEN.append(self)

    def head(self, method, target, headers):
        self["method"], self["target"] = text(method), text(target)
        self["headers"] = headers
        self["client"] = [value for name, value in headers if name == "x-forwarded-for"]


class Backend(asyncio.Protocol):
    name = ""
    count = 0

    def connection_made(self, transport):
        Backend.count += 1
        self.number = Backend.count
        self.transport = transport
        self.entry = None
        self.begin()

    def open(self):
        self.entry = Entry(self.name, self.number)
        return self.entry

    def done(self, close=False):
        entry, self.entry = self.entry, None
        entry["complete"] = True
        self.transport.write(b"HTTP/1.1 200 OK\r\nx-id: %s\r\ncontent-length: 0\r\n\r\n" % entry["id"].encode())
        if close:
            self.transport.close()

    def failed(self, error):
        entry = self.entry or self.open()
        self.entry = None
        entry["error"] = str(error)[:120]
        entry["raw"] = text(self.raw[:4000])
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nx-refused: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


class H11(Backend):
    name = "h11"

    def begin(self):
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MANY)
        self.body = []

    def data_received(self, data):
        if self.transport.is_closing():
            return
        self.raw = data
        try:
            self.parser.receive_data(data)
            while True:
                event = self.parser.next_event()
                if isinstance(event, h11.Request):
                    self.open().head(event.method, event.target, pairs(event.headers))
                    self.body = []
                elif isinstance(event, h11.Data):
                    self.body.append(event.data)
                    self.entry["body"] = text(b"".join(self.body))
                elif isinstance(event, h11.EndOfMessage):
                    self.entry["trailers"] = pairs(event.headers)
                    self.parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    self.parser.send(h11.EndOfMessage())
                    if self.parser.our_state is h11.MUST_CLOSE:
                        self.done(close=True)
                        return
                    self.done()
                    self.parser.start_next_cycle()
                else:
                    return
        except h11.RemoteProtocolError as error:
            self.failed(error)


class Llhttp(Backend):
    name = "llhttp"

    def begin(self):
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data):
        if self.transport.is_closing():
            return
        self.raw = data
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # It was answered by 200: the connection goes on as it was.
                self.begin()
                data = data[upgrade.args[0]:]
            except httptools.HttpParserError as error:
                self.failed(f"{type(error).__name__}: {error}")
                return

    def on_message_begin(self):
        self.open()
        self.url, self.headers, self.trailers, self.body, self.in_head = b"", [], [], [], True

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        (self.headers if self.in_head else self.trailers).append((name, value))

    def on_headers_complete(self):
        self.in_head = False
        self.entry.head(self.parser.get_method(), self.url, pairs(self.headers))

    def on_body(self, body):
        self.body.append(body)
        self.entry["body"] = text(b"".join(self.body))

    def on_message_complete(self):
        self.entry["trailers"] = pairs(self.trailers)
        self.done()


class Waitress(Backend):
    name = "waitress"
    adjustments = Adjustments()

    def begin(self):
        self.parser = HTTPRequestParser(self.adjustments)

    def data_received(self, data):
        if self.transport.is_closing():
            return
        self.raw = data
        while data:
            used = self.parser.received(data)
            data = data[used:]
            parser = self.parser
            if not parser.completed:
                continue
            if parser.error:
                self.failed(f"{type(parser.error).__name__}: {parser.error.body}")
                return
            if not parser.empty:
                self.open()
                method, _, rest = parser.first_line.partition(b" ")
                self.entry.head(method, rest.rpartition(b" ")[0], [])
                # It has its own form of headers, where those of one name are joined.
                self.entry["headers"] = None
                self.entry["client"] = [parser.headers.get("X_FORWARDED_FOR", "")]
                self.entry["body"] = text(parser.get_body_stream().read())
                self.done()
            parser.close()
            self.begin()


def read_h1(data):
    """All requests of a connection, and why there are no more."""
    requests, error = [], ""
    try:
        while data:
            # One empty line in front of a request is no error (RFC 9112, 2.2), though h11 takes it for one.
            parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MANY)
            parser.receive_data(data.removeprefix(b"\r\n"))
            current, body, event = None, [], None
            while not isinstance(event, h11.EndOfMessage):
                event = parser.next_event()
                if isinstance(event, h11.Request):
                    current = dict(
                        method=text(event.method), target=text(event.target), headers=pairs(event.headers), body="",
                        trailers=[], complete=False,
                    )
                    version = event.http_version
                    requests.append(current)
                elif isinstance(event, h11.Data):
                    body.append(event.data)
                    current["body"] = text(b"".join(body))
                elif isinstance(event, h11.EndOfMessage):
                    current["trailers"] = pairs(event.headers)
                    current["complete"] = True
                else:
                    return dict(requests=requests, error=error)
            said = ",".join(value for name, value in current["headers"] if name == "connection")
            options = [option.strip(" \t").lower() for option in said.split(",")]
            # It does not know persistent connections of HTTP/1.0.
            if "close" in options or (version == b"1.0" and "keep-alive" not in options):
                break
            data = bytes(parser.trailing_data[0])
    except h11.RemoteProtocolError as problem:
        error = str(problem)[:120]
    return dict(requests=requests, error=error)


def answers_of_h2(data):
    """What the server said: the status and the id of each stream, and how streams ended."""
    decoder, streams, at = hpack.Decoder(), {}, 0
    going_away, block = False, b""
    while at + 9 <= len(data):
        frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(data)[at:at + 9])
        if at + 9 + length > len(data):
            break
        frame.parse_body(memoryview(data)[at + 9:at + 9 + length])
        at += 9 + length
        stream = streams.setdefault(frame.stream_id, dict(status=0, id=None, reset=False))
        if isinstance(frame, (hyperframe.frame.HeadersFrame, hyperframe.frame.ContinuationFrame)):
            block += frame.data
            if "END_HEADERS" in frame.flags:
                headers = dict((text(n) if isinstance(n, bytes) else n, v) for n, v in decoder.decode(block, raw=True))
                block = b""
                if b":status" in headers or ":status" in headers:
                    stream["status"] = int(headers.get(":status") or headers[b":status"])
                    if "x-id" in headers:
                        stream["id"] = text(headers["x-id"])
        elif isinstance(frame, hyperframe.frame.RstStreamFrame):
            stream["reset"] = True
        elif isinstance(frame, hyperframe.frame.GoAwayFrame):
            going_away = going_away or frame.error_code != 0
    streams.pop(0, None)
    return dict(streams=streams, going_away=going_away)


def read_h2(sent, came):
    """What each stream asks, read as if it were alone: an error in one is nothing to the others. No header is in a table."""
    frames, at = [], 24
    while at < len(sent):
        end = at + 9 + int.from_bytes(sent[at:at + 3], "big")
        frames.append((int.from_bytes(sent[at + 5:at + 9], "big"), sent[at:end]))
        at = end
    streams = {}
    for number in sorted({number for number, _ in frames if number}):
        stream = dict(headers=[], body="", trailers=[], complete=False, error="")
        parser = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        parser.initiate_connection()
        try:
            parser.receive_data(sent[:24])
            for frame in [frame for owner, frame in frames if owner in (0, number)]:
                for event in parser.receive_data(frame):
                    if isinstance(event, h2.events.RequestReceived):
                        stream["headers"] = pairs(event.headers)
                    elif isinstance(event, h2.events.DataReceived):
                        stream["body"] += text(event.data)
                    elif isinstance(event, h2.events.TrailersReceived):
                        stream["trailers"] = pairs(event.headers)
                    elif isinstance(event, h2.events.StreamEnded):
                        stream["complete"] = True
                    elif isinstance(event, h2.events.StreamReset):
                        stream["error"] = "reset"
        except (h2.exceptions.H2Error, UnicodeDecodeError, ValueError) as problem:
            stream["error"] = f"{type(problem).__name__}: {problem}"[:120]
        streams[number] = stream
    return dict(streams=streams, answered=answers_of_h2(came))


async def serve():
    loop = asyncio.get_running_loop()
    ports = {}
    for kind in (H11, Llhttp, Waitress):
        server = await loop.create_server(kind, "127.0.0.1", 0, backlog=1024)
        ports[kind.name] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        with open(line.decode().strip(), "w") as out:
            json.dump(SEEN, out)
        print("written", flush=True)


def read(path):
    """A line in and a line out for each connection: what was sent, and for HTTP/2 what came, in hex."""
    with open(path) as lines:
        for line in lines:
            words = line.split()
            data = [bytes.fromhex(word.strip(".")) for word in words]
            print(json.dumps(read_h1(data[0]) if len(data) == 1 else read_h2(*data)))


if sys.argv[1] == "serve":
    asyncio.run(serve())
else:
    read(sys.argv[2])
