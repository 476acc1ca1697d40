"""What a killed export left: by its journal, and by its bytes."""

import tarfile
from dataclasses import dataclass

BLOCK = 4096
PIECE = 4 << 20


@dataclass
class Left:
    """What is absent after a kill. Counts are bytes of blobs."""

    # bytes of which the journal does not say that they were written
    unrecorded: int
    # bytes that differ from the finished bundle, in blocks of 4 KiB
    absent: int
    # slots of which something and not everything is recorded or there
    open_slots: int


def slots_of(bundle):
    """digest -> (offset, size) of the blobs in a finished bundle."""
    with tarfile.open(bundle) as archive:
        return {
            "sha256:" + member.name.removeprefix("blobs/sha256/"): (member.offset_data, member.size)
            for member in archive
            if member.name.startswith("blobs/sha256/") and member.isfile()
        }


def recorded(text):
    """What a journal says was written: digest -> list of (start, end), joined and in order.

    The lines are described at the top of `src/bundle/journal.rs`. A last line without a line feed does not count.
    """
    slots, written = [], []
    for line in text.split("\n")[1:-1]:
        match line.split(" "):
            case ["b", _, _, digest]:
                slots.append(digest)
                written.append([])
            case ["w", slot, start, end]:
                written[int(slot)].append((int(start), int(end)))
            case ["x", slot]:
                written[int(slot)] = []
            case ["s", _]:
                pass
            case _:
                raise ValueError(f"a line of the journal that is not known: {line!r}")
    return {digest: joined(ranges) for digest, ranges in zip(slots, written, strict=True)}


def joined(ranges):
    """Ranges in order, without overlaps."""
    result = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def present(partial, reference, offset, size):
    """How many bytes of a slot are the right ones in an unfinished bundle, block by block."""
    right = 0
    partial.seek(offset)
    reference.seek(offset)
    left = size
    while left:
        want = reference.read(min(PIECE, left))
        have = partial.read(len(want))
        left -= len(want)
        if have == want:
            right += len(want)
            continue
        for at in range(0, len(want), BLOCK):
            block = want[at : at + BLOCK]
            if have[at : at + BLOCK] == block:
                right += len(block)
    return right


def inspect(output, reference, slots, blobs):
    """What is absent of `output`, whose finished form is `reference`. `blobs`: digest -> size of configs and layers."""
    total = sum(blobs.values())
    partial_path = output.with_name(output.name + ".partial")
    journal_path = output.with_name(output.name + ".partial.journal")
    if not partial_path.exists() or not journal_path.exists():
        return Left(total, total, 0)
    said = recorded(journal_path.read_text())
    unrecorded = absent = open_slots = 0
    with open(partial_path, "rb") as partial, open(reference, "rb") as finished:
        for digest, size in blobs.items():
            offset, _ = slots[digest]
            there = present(partial, finished, offset, size)
            noted = sum(end - start for start, end in said.get(digest, []))
            absent += size - there
            unrecorded += size - noted
            # A slot is open until all of it is recorded: one whose last bytes are there and not recorded is too.
            if (there or noted) and noted < size:
                open_slots += 1
    return Left(unrecorded, absent, open_slots)
