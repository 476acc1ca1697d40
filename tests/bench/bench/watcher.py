"""Looks at every tag of a registry again and again: whatever a tag names must be there as a whole."""

import http.client
import json
import threading
import time

from . import corpus

ACCEPT = f"{corpus.INDEX}, {corpus.MANIFEST}"


class Watcher:
    """A thread that checks tags until it is stopped; use it in a `with`."""

    def __init__(self, host, tags):
        self.host = host
        # (repository, tag)
        self.tags = tags
        self.faults = []
        self.looks = 0
        self.seen = 0
        self.complete = {}
        self.over = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        if self.error:
            raise self.error

    def watch(self):
        try:
            while not self.over.wait(0.001):
                self.look()
        except Exception as error:  # handed to the thread that waits, so that no round passes unwatched
            self.error = error

    def look(self):
        """One look at every tag; notes what is absent below one that is there."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            for repository, tag in self.tags:
                self.looks += 1
                body = self.manifest(connection, repository, tag)
                if body is None:
                    continue
                self.seen += 1
                absent = self.absent(connection, repository, body)
                if absent:
                    self.faults.append(f"{repository}:{tag} is there and {absent} is not")
                self.complete[repository, tag] = not absent
        finally:
            connection.close()

    def absent(self, connection, repository, body):
        """The first thing below a manifest that is not there."""
        value = json.loads(body)
        for child in value.get("manifests", []):
            below = self.manifest(connection, repository, child["digest"])
            if below is None:
                return f"manifest {child['digest']}"
            deeper = self.absent(connection, repository, below)
            if deeper:
                return deeper
        for blob in [value["config"], *value["layers"]] if "config" in value else []:
            connection.request("HEAD", f"/v2/{repository}/blobs/{blob['digest']}")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200 or answer.headers["Content-Length"] != str(blob["size"]):
                return f"blob {blob['digest']}"
        return None

    @staticmethod
    def manifest(connection, repository, reference):
        """The bytes of a manifest, or nothing where it is not.

        docker-registry writes the file of a tag in two steps, and answers 500 to whoever reads it between them; that
        passes, and nothing of a tree was given out.
        """
        for _ in range(100):
            connection.request("GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": ACCEPT})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 500:
                break
            time.sleep(0.01)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise RuntimeError(f"{repository} {reference}: status {answer.status}")
        return body
