"""The tools that are compared: how each of them exports to files and imports from what it exported."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FLOOR_JOBS = 6
FLOOR_UPLOADS = 4


@dataclass
class Job:
    """What a tool is asked to do."""

    corpus: object
    host: str
    folder: Path
    # where the tool's own export lies, for an import
    archive: Path = None


def archive_name(image):
    return image.repository.replace("/", "_")


class Tool:
    """A contender. Each step is a command; the steps run one after the other in one shell."""

    name = ""
    # its name where it imports, if that is another one
    import_name = ""
    program = ""
    version_arguments = ["--version"]

    def path(self):
        """The program, or nothing where it is absent."""
        return shutil.which(self.program)

    def version(self):
        """One line for the report."""
        done = subprocess.run([self.path(), *self.version_arguments], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return " ".join(lines[0].split()) if lines else "unknown"

    def export(self, job):
        """The steps that write the images of the corpus below `job.folder / "out"`."""
        raise NotImplementedError

    def load(self, job):
        """The steps that send what `export` wrote to `job.host` under `mirror/`."""
        raise NotImplementedError

    def copy(self, job, target):
        """The steps that copy the images of the corpus from one registry to another, under `mirror/` there."""
        raise NotImplementedError

    def pairs(self, job, target):
        """The two names of each image for `copy`."""
        names = (f"{image.repository}:{image.tag}" for image in job.corpus.images)
        return [(f"{job.host}/{name}", f"{target}/mirror/{name}") for name in names]

    def prepare(self, job):
        """What is done before the clock starts."""


class DockerMirror(Tool):
    name = "docker-mirror"

    def path(self):
        binary = os.environ.get("DOCKER_MIRROR", "")
        return binary if binary and os.access(binary, os.X_OK) else None

    def export(self, job):
        return [[self.path(), "export", *job.corpus.references(job.host), "-o", job.folder / "out/bundle.tar"]]

    def load(self, job):
        return [[self.path(), "import", job.archive / "bundle.tar", "-d", f"{job.host}/mirror"]]


class DockerMirrorWithoutCache(DockerMirror):
    """The same without its cache of manifests, which other exports profit from and this one only writes."""

    name = "docker-mirror --no-cache"

    def export(self, job):
        return [[*command, "--no-cache"] for command in super().export(job)]


class DockerMirrorWithoutReferrers(DockerMirror):
    """The same without looking for signatures and other referrers."""

    name = "docker-mirror --no-referrers"

    def export(self, job):
        return [[*command, "--no-referrers"] for command in super().export(job)]


class Skopeo(Tool):
    name = "skopeo copy --all, oci-archive"
    import_name = "skopeo copy --all, from oci-archive"
    program = "skopeo"

    def start(self, job):
        return [self.path(), "--insecure-policy", "--tmpdir", job.folder / "tmp", "copy", "--quiet", "--all"]

    def export(self, job):
        return [
            [
                *self.start(job),
                "--src-tls-verify=false",
                f"docker://{job.host}/{image.repository}:{image.tag}",
                f"oci-archive:{job.folder}/out/{archive_name(image)}.tar:{image.tag}",
            ]
            for image in job.corpus.images
        ]

    def load(self, job):
        return [
            [
                *self.start(job),
                "--dest-tls-verify=false",
                f"oci-archive:{job.archive}/{archive_name(image)}.tar:{image.tag}",
                f"docker://{job.host}/mirror/{image.repository}:{image.tag}",
            ]
            for image in job.corpus.images
        ]

    def copy(self, job, target):
        flags = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        return [
            [*self.start(job), *flags, f"docker://{source}", f"docker://{name}"]
            for source, name in self.pairs(job, target)
        ]


class Crane(Tool):
    name = "crane pull --format=oci, tar"
    import_name = "untar, crane push"
    program = "crane"
    version_arguments = ["version"]

    def version(self):
        return "crane " + super().version()

    def export(self, job):
        steps = []
        for image in job.corpus.images:
            folder = job.folder / "out" / archive_name(image)
            reference = f"{job.host}/{image.repository}:{image.tag}"
            steps.append([self.path(), "pull", "--insecure", "--format=oci", reference, folder])
            steps.append(["tar", "-cf", f"{folder}.tar", "-C", folder, "."])
            steps.append(["rm", "-r", folder])
        return steps

    def load(self, job):
        steps = []
        for image in job.corpus.images:
            # crane pushes a folder, not a tar of it.
            folder = job.folder / "tmp" / archive_name(image)
            reference = f"{job.host}/mirror/{image.repository}:{image.tag}"
            steps.append(["mkdir", folder])
            steps.append(["tar", "-xf", job.archive / f"{archive_name(image)}.tar", "-C", folder])
            steps.append([self.path(), "push", "--insecure", folder, reference])
            steps.append(["rm", "-r", folder])
        return steps

    def copy(self, job, target):
        return [[self.path(), "copy", "--insecure", source, name] for source, name in self.pairs(job, target)]


class Regctl(Tool):
    name = "regctl image export"
    import_name = "regctl image import"
    program = "regctl"
    version_arguments = ["version", "--format", "{{.VCSTag}}"]

    def version(self):
        return "regctl " + super().version()

    def start(self, job):
        return [self.path(), "--host", f"reg={job.host},tls=disabled", "image"]

    def export(self, job):
        return [
            [
                *self.start(job),
                "export",
                f"{job.host}/{image.repository}:{image.tag}",
                job.folder / f"out/{archive_name(image)}.tar",
            ]
            for image in job.corpus.images
        ]

    def load(self, job):
        return [
            [
                *self.start(job),
                "import",
                f"{job.host}/mirror/{image.repository}:{image.tag}",
                job.archive / f"{archive_name(image)}.tar",
            ]
            for image in job.corpus.images
        ]

    def copy(self, job, target):
        start = [self.path(), "--host", f"reg={job.host},tls=disabled", "--host", f"reg={target},tls=disabled"]
        return [[*start, "image", "copy", source, name] for source, name in self.pairs(job, target)]


class Oras(Tool):
    name = "oras backup"
    import_name = "oras restore"
    program = "oras"
    version_arguments = ["version"]

    def version(self):
        return "oras " + super().version().removeprefix("Version:").strip()

    def export(self, job):
        return [
            [
                self.path(),
                "backup",
                "--plain-http",
                "--no-tty",
                "--output",
                job.folder / f"out/{archive_name(image)}.tar",
                f"{job.host}/{image.repository}:{image.tag}",
            ]
            for image in job.corpus.images
        ]

    def load(self, job):
        return [
            [
                self.path(),
                "restore",
                "--plain-http",
                "--no-tty",
                "--input",
                job.archive / f"{archive_name(image)}.tar",
                f"{job.host}/mirror/{image.repository}:{image.tag}",
            ]
            for image in job.corpus.images
        ]

    def copy(self, job, target):
        start = [self.path(), "cp", "--from-plain-http", "--to-plain-http", "--no-tty"]
        return [[*start, source, name] for source, name in self.pairs(job, target)]


class Floor(Tool):
    """What the machine can do: curl moves the blobs, largest first and each once, openssl hashes them. No manifests, no
    archive, nothing made durable."""

    name = f"floor: curl --parallel-max {FLOOR_JOBS}, then openssl dgst -P2"
    import_name = f"floor: POST, then curl -T, --parallel-max {FLOOR_UPLOADS}"
    program = "curl"
    synced = False

    def version(self):
        openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False).stdout
        return " ".join(super().version().split()[:2]) + ", " + " ".join(openssl.split()[:2])

    def ordered(self, job):
        return sorted(job.corpus.blobs, key=lambda digest: (-job.corpus.blobs[digest], digest))

    def prepare(self, job):
        digests = self.ordered(job)
        lines = []
        if job.archive is None:
            repository_of = job.corpus.repository_of()
            for digest in digests:
                lines.append(f'url = "http://{job.host}/v2/{repository_of[digest]}/blobs/{digest}"')
                lines.append(f'output = "out/{digest[7:]}"')
        else:
            # Upload sessions in one repository; which session takes which blob does not matter.
            for _ in digests:
                lines.append(f'url = "http://{job.host}/v2/mirror/floor/blobs/uploads/"')
                lines.append('output = "/dev/null"')
        (job.folder / "requests").write_text("\n".join(lines) + "\n")
        (job.folder / "digests").write_text("".join(f"{digest}\n" for digest in digests))
        (job.folder / "files").write_text("".join(f"{job.corpus.data(digest)}\n" for digest in digests))

    def export(self, job):
        # One process per blob where blobs are large, some dozens in all where they are many.
        at_once = max(1, len(job.corpus.blobs) // 32)
        steps = [
            ["curl", "-sS", "--fail", "--parallel", "--parallel-max", FLOOR_JOBS, "-K", "requests"],
            ["bash", "-c", f"cd out && ls -S | xargs -P2 -n{at_once} openssl dgst -sha256 > ../sums"],
        ]
        if self.synced:
            steps.append(["bash", "-c", "cd out && ls | xargs sync"])
        return steps

    def load(self, job):
        curl = f"curl -sS --fail --parallel --parallel-max {FLOOR_UPLOADS}"
        sessions = f"{curl} -X POST -d '' -w '%{{header_json}}' -K requests"
        return [
            ["bash", "-c", f"{sessions} | grep -o 'http://[^\"]*' | tr -d '\\\\' > sessions"],
            [
                "bash",
                "-c",
                "paste -d ' ' sessions digests files | "
                'while read -r session digest file; do printf \'url = "%s&digest=%s"\\nupload-file = "%s"\\n'
                'output = "/dev/null"\\n\' "$session" "$digest" "$file"; done > uploads && '
                f"{curl} -H 'Content-Type: application/octet-stream' -H 'Expect:' -K uploads",
            ],
        ]


class SyncedFloor(Floor):
    """The floor with its files made durable, as docker-mirror's bundle is."""

    name = "floor, files synced"
    synced = True


PEERS = [Skopeo(), Crane(), Regctl(), Oras()]
EXPORTERS = [DockerMirror(), Skopeo(), Crane(), Regctl(), Oras(), Floor(), SyncedFloor()]
IMPORTERS = [DockerMirror(), Skopeo(), Crane(), Regctl(), Oras(), Floor()]
for importer in IMPORTERS:
    importer.name = importer.import_name or importer.name
