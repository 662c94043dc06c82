"""The files found in a tar are those that tarfile finds, whatever wrote or damaged it."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import BLOCKSIZE

import pytest

from ixt.errors import DataError, first_line
from ixt.images.shard_bytes import ShardBytes
from ixt.images.tar_walk import Member, _refuse_odd, walk_tar

_SIZES = (0, 1, 511, 512, 513, 1500)
_NAMES = (
    "a.jpg",
    "./b.jpg",
    "c/d/e.cls",
    "ä.jpg",
    os.fsdecode(b"\xff.jpg"),
    "n" * 100,
    "n" * 101,
    "p" * 150 + "/" + "n" * 99,
    "p" * 154 + "/" + "n" * 100,
    "m" * 256,
    "../out.jpg",
    "/root.jpg",
    "x..y.jpg",
    "folder/",
)
_FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
_PAX: tuple[dict[str, str], ...] = (
    {"mtime": "1700000000.25"},
    {"mtime": "no number"},
    {"path": "other.jpg"},
    {"size": "7"},
    {"comment": "x" * 600},
    {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"},
)
_ODD_TYPES = b"\x007127345LKSxgVZ"


_MORE = (
    "x.tar: has data behind its end mark, at byte {}; if it was joined of several tars, join them "
    "by tar --concatenate instead of cat, or keep them apart"
)


def read_of(content: bytes, window: int = BLOCKSIZE) -> ShardBytes:
    return ShardBytes(len(content), window, lambda at, size, more: content[at : at + more])


def walk_with_tarfile(content: bytes, start: int, length: int) -> Iterator[Member]:
    """Every header is read by tarfile."""
    end, file = start + length, io.BytesIO(content)
    try:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                _refuse_odd("x.tar", info)
                if not 0 <= info.size <= end - info.offset_data:
                    raise tarfile.ReadError("unexpected end of data")
                if not info.isdir():
                    name = os.fsencode(info.name).removeprefix(b"./")
                    yield Member(name, info.offset_data, info.size)
            file.seek(tar.offset)
            if tar.offset + BLOCKSIZE > end or file.read(BLOCKSIZE) != bytes(BLOCKSIZE):
                raise tarfile.ReadError(f"no end mark at byte {tar.offset}")
            if content[tar.offset : end].strip(b"\0"):
                at = end - len(content[tar.offset : end].lstrip(b"\0"))
                raise DataError(_MORE.format(at))
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:
        raise DataError(
            f"x.tar: cannot be read as a tar ({first_line(error)}); it is cut off or damaged; "
            "download or copy it again"
        ) from error


def outcome(members: Iterator[Member], between: Callable[[], object] = bool) -> list[object]:
    """The members, and the error that ended them."""
    found: list[object] = []
    try:
        for member in members:
            found.append(member)
            between()
    except DataError as error:
        found.append(str(error))
    return found


def add(tar: tarfile.TarFile, rng: random.Random) -> None:
    usual = rng.random() < 0.7
    info = tarfile.TarInfo(f"{rng.randrange(10**6):06}.jpg" if usual else rng.choice(_NAMES))
    info.size = rng.choice(_SIZES)
    info.mtime = rng.choice((0, 1700000000, 1700000000.123))
    if not usual:
        info.uid = rng.choice((0, 1000, 2**21 - 1, 2**21, 2**40))
        info.uname = rng.choice(("", "root", "ü"))
        info.pax_headers = dict(rng.choice(({}, *_PAX)))
        if rng.random() < 0.2:
            info.type = rng.choice((tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE))
            info.size, info.linkname = 0, "a.jpg"
    try:
        tar.addfile(info, io.BytesIO(rng.randbytes(info.size)))
    except ValueError:  # its name or number does not fit into this format
        return


def archive(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice(_FORMATS)) as tar:
        if tar.format == tarfile.PAX_FORMAT and rng.random() < 0.1:
            tar.pax_headers = dict(rng.choice(({"comment": "x"}, *_PAX[:4])))
            buffer.write(tarfile.TarInfo.create_pax_global_header(tar.pax_headers))
            tar.offset = buffer.tell()
        for _ in range(rng.randrange(8)):
            add(tar, rng)
    return buffer.getvalue()


def sign(content: bytearray, at: int) -> None:
    """Let the checksum of a header fit."""
    total = 256 + sum(content[at : at + 148]) + sum(content[at + 156 : at + BLOCKSIZE])
    content[at + 148 : at + 156] = b"%06o\0 " % total


def damage(content: bytearray, rng: random.Random) -> bytearray:
    """Change an archive as disks, networks and odd writers do."""
    if len(content) < BLOCKSIZE:
        return content
    at = rng.randrange(len(content) // BLOCKSIZE) * BLOCKSIZE
    kind = rng.randrange(8)
    if kind == 0:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 1:
        return content[: at + rng.choice((0, 1, 511))]
    if kind == 2:
        return content + rng.randbytes(rng.choice((1, 512, 5000)))
    if kind == 3:
        content[at:at] = bytes(BLOCKSIZE)
        return content
    if kind == 4:
        return content.rstrip(b"\0") + bytes(rng.randrange(1200)) + archive(rng)
    if kind == 5:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return content
    field = rng.choice((range(100), range(100, 124), range(124, 148), range(156, 157), range(512)))
    values = _ODD_TYPES if field == range(156, 157) else b"\0 /.078\x80\xff\xc3"
    for _ in range(rng.randrange(1, 4)):
        content[at + rng.choice(field)] = rng.choice(values)
    if kind == 6:
        sign(content, at)
    return content


@pytest.mark.parametrize("seed", range(40))
def test_any_archive_gives_the_members_and_the_error_that_tarfile_gives(seed: int) -> None:
    kinds = set()
    for number in range(50):
        rng = random.Random(50 * seed + number)
        content = bytearray(archive(rng))
        for _ in range(rng.randrange(3)):
            content = damage(content, rng)
        start = rng.choice((0, 0, 512, 1024))
        tail = rng.choice((b"", bytes(512), archive(rng)))
        whole, length = bytes(start) + bytes(content) + tail, len(content)
        file = read_of(whole, rng.choice((512, 1024, 2**14)))

        def between(file: ShardBytes = file, rng: random.Random = rng) -> None:
            file.at(rng.randrange(file.size + 1), rng.choice(_SIZES))

        expected = outcome(walk_with_tarfile(whole, start, length))
        assert outcome(walk_tar(file, start, length, "x.tar"), between) == expected, number
        kinds.add(type(expected[-1]) if expected else None)
    assert {Member, str} <= kinds


def test_a_second_tar_behind_the_end_of_the_first_is_refused() -> None:
    first, second = (archive(random.Random(seed)) for seed in (1, 2))
    with pytest.raises(DataError) as caught:
        list(walk_tar(read_of(first + second), 0, len(first + second), "x.tar"))
    assert str(caught.value) == _MORE.format(len(first))
    padded = first + bytes(3 * 2**20)
    assert list(walk_tar(read_of(padded), 0, len(padded), "x.tar"))


def block(name: str, content: bytes = b"", kind: bytes = b"0", prefix: bytes = b"") -> bytes:
    """A header of that type, and its content."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[:100] = name.encode().ljust(100, b"\0")
    header[156:157] = kind
    header[345:500] = prefix.ljust(155, b"\0")
    sign(header, 0)
    return bytes(header) + content + bytes(-len(content) % BLOCKSIZE)


def extended(records: bytes, hidden: bytes = b"") -> bytes:
    """An extended header, and what stands in its block behind its end."""
    found = block("x", records, b"x")
    end = BLOCKSIZE + len(records)
    return found[:end] + hidden + found[end + len(hidden) :]


_TIME = b"16 mtime=1700.5\n"
_PATH = b"14 path=b.jpg\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (block("a", b"1", b"\0"), block("d/", b"", b"\0")),
        (block("a", b"1", b"\0"), block("a/", b"1", b"0")),
        (block("d", b"", b"5"), block("e", b"", b"5")),
        (block("a", b"1", b"7"), block("b", b"1", b"7")),
        (block("", b"1"), block("", b"1")),
        (block("a", b"1", prefix=b"p"), block("b", b"1", prefix=b"p")),
        (block("d", prefix=b"\xff"), block("e", prefix=b"\xfe")),
        (extended(_TIME), extended(_TIME)),
        (extended(_TIME), extended(b"")),
        (extended(_TIME), extended(b"") + bytes(BLOCKSIZE)),
        (extended(_TIME), extended(b"17" + _TIME[2:])),
        (extended(_TIME), extended(_TIME, hidden=_PATH)),
        (extended(_TIME), extended(_TIME + _PATH)),
        (extended(_TIME), extended(_PATH)),
        (extended(_TIME), extended(_TIME) + extended(_TIME)),
        (extended(_TIME), extended(_TIME * 32)),
        (extended(_TIME), extended(_TIME * 33)),
        (extended(_TIME), extended(_TIME) + block("l", b"c.jpg", b"L")),
        (extended(_TIME), block("g", _PATH, b"g")),
        (block("l", b"c.jpg\0", b"L"), block("l", b"d.jpg\0", b"L")),
    ],
)
def test_a_header_that_looks_like_one_before_is_what_tarfile_takes_it_for(
    first: bytes, second: bytes
) -> None:
    files = [block(name, name.encode()) for name in ("one.jpg", "two.jpg", "three.jpg")]
    parts = [files[0], first, files[1], second, files[2], bytes(2 * BLOCKSIZE)]
    content = b"".join(parts)
    expected = outcome(walk_with_tarfile(content, 0, len(content)))
    assert outcome(walk_tar(read_of(content), 0, len(content), "x.tar")) == expected


def members(count: int) -> Iterator[tarfile.TarInfo]:
    for number in range(count):
        info = tarfile.TarInfo(f"{number:06}.jpg")
        info.size, info.mode, info.mtime = number, 0o444, 1700000000.123 + number
        info.uname = info.gname = "bigdata"
        yield info


def by_python(path: Path, kind: int) -> None:
    """As webdataset.TarWriter does, whose format is Python's own, with times in fractions."""
    with tarfile.open(path, "w|", format=kind) as tar:
        for info in members(100):
            tar.addfile(info, io.BytesIO(bytes(info.size)))


def by_gnu_tar(path: Path, kind: str) -> None:
    folder = path.parent / "files"
    folder.mkdir()
    for info in members(100):
        (folder / info.name).write_bytes(bytes(info.size))
    command = ["tar", "-C", str(folder), "--sort=name", f"--format={kind}", "-cf", str(path)]
    subprocess.run([*command, *sorted(os.listdir(folder))], check=True)


@pytest.mark.parametrize(
    "write",
    [
        *(lambda path, kind=kind: by_python(path, kind) for kind in _FORMATS),
        *(
            pytest.param(
                lambda path, kind=kind: by_gnu_tar(path, kind),
                marks=pytest.mark.skipif(not shutil.which("tar"), reason="needs tar"),
            )
            for kind in ("ustar", "gnu", "posix")
        ),
    ],
)
def test_of_an_ordinary_archive_tarfile_reads_the_first_header_and_the_end(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "x.tar")
    content = (tmp_path / "x.tar").read_bytes()
    expected = outcome(walk_with_tarfile(content, 0, len(content)))
    assert len(expected) == 100
    calls = []
    original = tarfile.TarInfo.fromtarfile.__func__  # type: ignore[attr-defined]

    def counted(cls: type[tarfile.TarInfo], tar: tarfile.TarFile) -> tarfile.TarInfo:
        calls.append(tar.offset)
        found: tarfile.TarInfo = original(cls, tar)
        return found

    monkeypatch.setattr(tarfile.TarInfo, "fromtarfile", classmethod(counted))
    assert outcome(walk_tar(read_of(content), 0, len(content), "x.tar")) == expected
    first = 2 if content[156:157] == b"x" else 1  # headers of the first member
    assert len(calls) == first + 1
