"""A slow disk: a file system in a file, whose block device the kernel limits to a rate for the program that is measured.

Needs root, loop devices and the blkio controller of cgroup v1. That controller does not limit what the kernel writes back
later, so the file system is mounted with `sync`: each write waits for the device.
"""

import os
import shutil
import subprocess
from pathlib import Path

from .measure import Failed

CONTROLLER = Path("/sys/fs/cgroup/blkio")

# Bytes of the file system; its file is sparse.
SIZE = 1 << 30


class SlowDisk:
    """A mounted disk; use it in a `with`. `rate` is in MB/s, for reading and for writing."""

    def __init__(self, work, rate):
        self.image, self.folder, self.rate = Path(work) / "disk.img", Path(work) / "disk", rate
        self.group = CONTROLLER / f"docker-mirror-bench-{os.getpid()}"
        self.device = ""

    @property
    def prefix(self):
        """The words before a command line that puts the program under the limit."""
        return ["sh", "-c", f'echo $$ > {self.group}/cgroup.procs && exec "$@"', "sh"]

    def __enter__(self):
        try:
            return self.start()
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            raise Failed(f"no slow disk (it needs root, loop devices and cgroup v1): {error}") from None

    def start(self):
        """Makes the file system, mounts it, and sets the limit."""
        self.folder.mkdir(exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        done = subprocess.run(["losetup", "--find", "--show", self.image], capture_output=True, text=True, check=True)
        self.device = done.stdout.strip()
        subprocess.run(["mount", "-o", "sync", self.device, self.folder], check=True)
        number = os.stat(self.device).st_rdev
        self.group.mkdir()
        for direction in ("read", "write"):
            limit = f"{os.major(number)}:{os.minor(number)} {self.rate * 1_000_000}"
            (self.group / f"blkio.throttle.{direction}_bps_device").write_text(limit)
        return self

    def copy_tree(self, source, name):
        """A copy of a folder of files."""
        (self.folder / name).mkdir()
        for file in source.iterdir():
            self.copy(file, f"{name}/{file.name}")
        return self.folder / name

    def copy(self, source, name):
        """A copy of a file on the disk, which is not in memory."""
        target = self.folder / name
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return target

    def __exit__(self, *_):
        if os.path.ismount(self.folder):
            subprocess.run(["umount", self.folder], check=False)
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], check=False)
        if self.group.is_dir():
            self.group.rmdir()
        self.image.unlink(missing_ok=True)
