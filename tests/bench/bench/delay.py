"""A TCP proxy on loopback that delays each direction without limiting bandwidth, and counts bytes.

What arrives is queued with the time at which it is due, so that any amount may be under way. The client's first bytes
wait one round trip more: they could not have left before the handshake had come back. Slow start and loss are not
imitated: real lines are less kind to tools that open many connections one after the other.

Runs as a process of its own: `python3 delay.py HOST:PORT MILLISECONDS` prints its address; each line on its standard input
is answered with the bytes so far; it ends with its standard input.
"""

import asyncio
import json
import sys
from collections import deque

# More than that under way in one direction makes the sender wait: 20 ms at more than 3 GB/s.
MAX_QUEUED = 64 << 20


class Side(asyncio.Protocol):
    """One end of a connection: what it receives is due at the other end later."""

    def __init__(self, proxy, name):
        self.proxy = proxy
        self.name = name
        self.other = None
        self.transport = None
        self.queue = deque()
        self.queued = 0
        self.timer = None
        self.not_before = 0.0
        self.blocked = False
        self.ended = False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.proxy.counts[self.name] += len(data)
        self.enqueue(data)
        self.queued += len(data)
        if self.queued > MAX_QUEUED:
            self.transport.pause_reading()

    def eof_received(self):
        self.enqueue(None)
        return True

    def enqueue(self, data):
        loop = asyncio.get_running_loop()
        due = max(loop.time(), self.not_before) + self.proxy.delay
        self.queue.append((due, data))
        self.arm()

    def arm(self):
        """Sets the timer for the first piece of the queue."""
        if self.timer is None and self.queue and not self.blocked and self.other and self.other.transport:
            self.timer = asyncio.get_running_loop().call_at(self.queue[0][0], self.flush)

    def flush(self):
        """Sends everything that is due to the other end."""
        self.timer = None
        # A clock's step: what is due within it goes too.
        now = asyncio.get_running_loop().time() + 0.0005
        while self.queue and self.queue[0][0] <= now and not self.blocked:
            _, data = self.queue.popleft()
            if data is None:
                self.ended = True
                self.other.transport.write_eof()
                if self.other.ended:
                    self.close()
            else:
                self.queued -= len(data)
                self.other.transport.write(data)
        if self.queued <= MAX_QUEUED // 2 and not self.transport.is_closing():
            self.transport.resume_reading()
        self.arm()

    def pause_writing(self):
        """Our peer does not take more: the other end's queue waits."""
        self.other.blocked = True

    def resume_writing(self):
        self.other.blocked = False
        self.other.arm()

    def connection_lost(self, error):
        # A broken connection breaks the other one as well; an orderly end has gone through the queue before.
        if error is not None or not self.ended:
            self.close()

    def close(self):
        for side in (self, self.other):
            if side and side.transport:
                side.transport.close()


class Proxy:
    """Accepts connections and opens one to the server for each."""

    def __init__(self, host, port, delay):
        self.host, self.port, self.delay = host, port, delay
        self.counts = {"up": 0, "down": 0, "connections": 0}
        self.tasks = set()

    def accept(self):
        loop = asyncio.get_running_loop()
        client = Side(self, "up")
        client.not_before = loop.time() + 2 * self.delay
        self.counts["connections"] += 1
        task = loop.create_task(self.connect(client))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return client

    async def connect(self, client):
        server = Side(self, "down")
        client.other, server.other = server, client
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, self.host, self.port)
        except OSError:
            client.close()
            return
        client.arm()


async def main(target, milliseconds):
    """Serves until the standard input ends."""
    host, port = target.rsplit(":", 1)
    proxy = Proxy(host, int(port), milliseconds / 1000)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(proxy.accept, "127.0.0.1", 0, backlog=1024)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
