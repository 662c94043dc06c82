"""A place in a bucket, as pathlib describes one on a disk, for code that reads either."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import final

from ixt.storage.objects import RemoteFile, list_folder, list_objects, read_object


@dataclass
class _Seen:
    """What the paths that come from one root know of the bucket: each folder is listed once."""

    folders: dict[str, list[str]] = field(default_factory=dict)
    """Names of the folders in each folder listed."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Names of the objects in each folder listed, or of all below it, if the key ends in a slash.
    """
    files: dict[str, RemoteFile] = field(default_factory=dict)
    """The objects listed, by their URLs."""


@final
@dataclass(frozen=True, order=True)
class RemotePath:
    """An object in a bucket, or what its name begins with."""

    url: str
    _seen: _Seen = field(default_factory=_Seen, compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return self.at(f"{self.url}/{name}")

    def at(self, url: str) -> RemotePath:
        """Another place in the same bucket."""
        return RemotePath(url, self._seen)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last dot of the name and what is behind it."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """What the place lies in."""
        return self.at(self.url.rpartition("/")[0])

    def level(self) -> tuple[list[str], list[str]]:
        """Names of the folders and of the objects directly in it; none if there are none.

        Raises:
            StorageError: as `list_folder`.
        """
        seen = self._seen
        if self.url not in seen.names:
            seen.folders[self.url], files = list_folder(self.url)
            seen.files |= {f"{self.url}/{name}": file for name, file in files.items()}
            seen.names[self.url] = list(files)
        return seen.folders[self.url], seen.names[self.url]

    def walk(self) -> list[str]:
        """Names of all objects below it, at any depth.

        Raises:
            StorageError: as `list_objects`.
        """
        seen, prefix = self._seen, f"{self.url}/"
        if prefix not in seen.names:
            files = list_objects(self.url)
            seen.files |= {prefix + name: file for name, file in files.items()}
            seen.names[prefix] = list(files)
        return seen.names[prefix]

    def is_dir(self) -> bool:
        """Whether names begin with it."""
        known = self._seen.folders.get(self.parent.url)
        return self.name in known if known is not None else any(self.level())

    def is_file(self) -> bool:
        """Whether it is an object."""
        return self._find() is not None

    def exists(self) -> bool:
        """Whether it is an object, or names begin with it."""
        return self.is_dir() or (self.parent.is_listed and self.is_file())

    @property
    def is_listed(self) -> bool:
        """Whether it was listed before; what lies above a data root may be closed to the user."""
        return self.url in self._seen.names

    @property
    def file(self) -> RemoteFile:
        """Length and version, as listed.

        Raises:
            FileNotFoundError: it is not an object.
        """
        found = self._find()
        if found is None:
            raise FileNotFoundError(self.url)
        return found

    def read_bytes(self) -> bytes:
        """The content, of the version that was listed.

        Raises:
            StorageError: as `read_object`.
        """
        return read_object(self.url, 0, self.file.size, self.file.version)

    def _find(self) -> RemoteFile | None:
        if self.url not in self._seen.files:
            self.parent.level()
        return self._seen.files.get(self.url)
