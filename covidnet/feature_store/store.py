"""Features on disk, keyed by content: the frozen backbone processes each image only once.

The format is safetensors, which is well maintained. A file is a short JSON header and raw arrays, so it can be
memory-mapped and contains no code. A store is a folder of such files (segments), each written under a temporary name
and then renamed. Nothing is changed in place, so readers need no lock, and a killed writer leaves only a temporary file
that nobody reads. This also works on network file systems, unlike LMDB and SQLite.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from covidnet.base.atomic import locked, write_bytes
from covidnet.base.errors import StoreError

log = logging.getLogger(__name__)

KEY_BYTES = 32

Vectors = npt.NDArray[np.float32]


def feature_key(sha256: str, operator: str = "") -> bytes:
    """The key of one input: the image file's hash and the operator applied to the image.

    Args:
        sha256: hexadecimal hash of the image file's bytes.
        operator: description of the augmentation with its parameters; empty for the image as it is.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(f"{sha256}\n{operator}".encode()).digest()


class FeatureStore:
    """Feature vectors of one backbone with one image preprocessing.

    Args:
        root: folder of all stores.
        description: what the vectors depend on besides the key: reading, transforms, weights, precision. The store's
            folder is named by its hash, so other settings never use these vectors.
        dim: length of a vector.

    Raises:
        StoreError: the folder cannot be created.
    """

    def __init__(self, root: Path, description: Mapping[str, Any], dim: int) -> None:
        text = json.dumps(dict(description), sort_keys=True, indent=2)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.dim = dim
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: the feature store cannot be created ({error.strerror}); give a writable cache_dir"
            ) from error
        if not (self.folder / "store.json").exists():
            write_bytes(self.folder / "store.json", (text + "\n").encode())
        self._segments: dict[str, _Segment | None] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        self.refresh()

    @classmethod
    def at(cls, folder: Path) -> FeatureStore:
        """Open an existing store.

        Raises:
            StoreError: its store.json was changed.
        """
        description = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        dims = [dim for path in sorted(folder.glob("*.safetensors")) if (dim := _dim(path))]
        store = cls(folder.parent, description, max(set(dims), key=dims.count) if dims else 0)
        if store.folder != folder:
            raise StoreError(f"{folder}: store.json was changed; delete the folder")
        return store

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock for filling the store: a second job waits, then finds the work done. Reading needs no lock.

        Raises:
            StoreError: the lock file cannot be created.
        """
        with ExitStack() as held:
            try:
                if unwritable := held.enter_context(locked(self.folder / ".lock")):
                    raise unwritable
            except OSError as error:
                cause = getattr(error, "cause", None) or error.strerror or error
                raise StoreError(
                    f"{self.folder}: the feature store cannot be written ({cause}); "
                    "free some space there, or give a writable cache_dir"
                ) from error
            yield

    def refresh(self) -> None:
        """Load segments that others have written since; a damaged one is logged and skipped."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._segments:
                continue
            try:
                segment = _Segment(path, self.dim)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                log.warning(
                    "feature store: %s is ignored (%s); its features are computed again, and you can delete the file",
                    path,
                    error,
                )
                self._segments[path.name] = None
                continue
            self._segments[path.name] = segment
            # Segments are named by time: the newest entry of a key counts.
            self._places.update((key, (path.name, row)) for row, key in enumerate(segment.keys))

    @property
    def unusable(self) -> list[Path]:
        """Files that are not complete segments of this store."""
        return [self.folder / name for name, segment in self._segments.items() if segment is None]

    def keys(self) -> list[bytes]:
        """The keys in the store."""
        return list(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def read(self, keys: Sequence[bytes]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        """The vectors of some keys.

        Args:
            keys: n keys.

        Returns:
            The vectors (n, dim), and a mask (n) of those that are present and match their checksum; the others are
            zero.
        """
        vectors = np.zeros((len(keys), self.dim), np.float32)
        found = np.zeros(len(keys), np.bool_)
        damaged: dict[str, int] = {}
        for n, key in enumerate(keys):
            place = self._places.get(key)
            if place is None:
                continue
            segment = self._segments[place[0]]
            assert segment is not None  # entries come only from complete segments
            vector = segment.vectors[place[1]]
            if _checksum(key, vector) == segment.checksums[place[1]]:
                vectors[n], found[n] = vector, True
            else:
                damaged[place[0]] = damaged.get(place[0], 0) + 1
                del self._places[key]
        for name, count in damaged.items():
            log.warning(
                "feature store: %s: %d features do not match their checksum; they are computed again",
                self.folder / name,
                count,
            )
        return vectors, found

    def holds(self, keys: Sequence[bytes], at_once: int = 4096) -> npt.NDArray[np.bool_]:
        """Which of n keys are present and match their checksum (n), without keeping the vectors in memory."""
        parts = [self.read(keys[n : n + at_once])[1] for n in range(0, len(keys), at_once)]
        return np.concatenate(parts) if parts else np.zeros(0, np.bool_)

    def append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Add vectors as one segment, which is written completely or not at all.

        Args:
            keys: n keys of `KEY_BYTES` bytes.
            vectors: (n, dim) float32.

        Raises:
            WriteError: the disk is full or the folder cannot be written; the store is unchanged.
        """
        if not len(keys):
            return
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.shape != (len(keys), self.dim):
            raise ValueError(f"vectors have shape {vectors.shape}, expected {(len(keys), self.dim)}")
        if wrong := {len(key) for key in keys} - {KEY_BYTES}:
            raise ValueError(f"keys have {sorted(wrong)} bytes, expected {KEY_BYTES}")
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES)
        data = save(
            {
                "keys": table,
                "vectors": vectors,
                "checksums": np.array([_checksum(k, v) for k, v in zip(keys, vectors, strict=True)], np.uint32),
            },
            # Without it, nobody would ever look up a damaged key, and the damage would go unnoticed.
            metadata={"keys_crc32": f"{zlib.crc32(table.tobytes()):08x}"},
        )
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.safetensors"
        write_bytes(path, data)
        self.refresh()


class _Segment:
    """One file of a store, its vectors mapped into memory."""

    def __init__(self, path: Path, dim: int) -> None:
        with safe_open(path, framework="numpy") as file:
            keys = file.get_tensor("keys")
            self.checksums = file.get_tensor("checksums")
            expected = (file.metadata() or {}).get("keys_crc32")
        if expected != f"{zlib.crc32(keys.tobytes()):08x}":
            raise ValueError("its keys do not match their checksum")
        self.keys = [row.tobytes() for row in keys]
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))["vectors"]
        if header["dtype"] != "F32" or header["shape"] != [len(keys), dim]:
            raise ValueError(f"holds {header['dtype']} {header['shape']}, expected F32 {[len(keys), dim]}")
        start = 8 + length + header["data_offsets"][0]
        self.vectors = np.memmap(path, np.float32, mode="r", offset=start, shape=(len(keys), dim))


def _dim(path: Path) -> int | None:
    """The length of a segment's vectors, or None if it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice("vectors").get_shape()[1])
    except (SafetensorError, OSError, IndexError):
        return None


def _checksum(key: bytes, vector: npt.NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(vector).tobytes(), zlib.crc32(key))


__all__ = ["FeatureStore", "feature_key"]
