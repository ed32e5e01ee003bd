"""Features on disk, keyed by content: what a frozen backbone made of an image is computed once, ever.

The format is safetensors: a well-kept one whose files are a short JSON header and raw arrays, so that they are
memory-mapped on read and hold no code. A store is a folder of such files (segments), each written whole under a
temporary name and then renamed. Nothing is ever changed in place: readers need no lock, a killed writer leaves a
temporary file that nobody reads, and this holds on network file systems, where LMDB and SQLite do not.
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

from covidnet.atomic import locked, write_bytes
from covidnet.errors import StoreError

log = logging.getLogger(__name__)

KEY_BYTES = 32

Vectors = npt.NDArray[np.float32]


def feature_key(sha256: str, operator: str) -> bytes:
    """The key of one input: the image file's hash and the operator that was applied to it.

    Args:
        sha256: hexadecimal hash of the image file's bytes.
        operator: description of the augmentation with its parameters.

    Returns:
        32 bytes.
    """
    return hashlib.sha256(f"{sha256}\n{operator}".encode()).digest()


class FeatureStore:
    """Feature vectors of one backbone with one way of preparing films.

    Args:
        root: folder of all stores.
        description: what the vectors depend on beside the key: reading, transforms, weights, precision. Its hash
            names the store's folder, so that other settings never meet these vectors.
        dim: length of a vector.

    Raises:
        StoreError: where the folder cannot be made.
    """

    def __init__(self, root: Path, description: Mapping[str, Any], dim: int) -> None:
        text = json.dumps(dict(description), sort_keys=True, indent=2)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.dim = dim
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: the feature store cannot be made ({error.strerror}); give a writable cache_dir"
            ) from error
        if not (self.folder / "store.json").exists():
            write_bytes(self.folder / "store.json", (text + "\n").encode())
        self._segments: dict[str, _Segment | None] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        self.refresh()

    @classmethod
    def at(cls, folder: Path) -> FeatureStore:
        """The store that lies in a folder already.

        Raises:
            StoreError: where its store.json is not the one that it was made with.
        """
        description = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        dims = [dim for path in sorted(folder.glob("*.safetensors")) if (dim := _dim(path))]
        store = cls(folder.parent, description, max(set(dims), key=dims.count) if dims else 0)
        if store.folder != folder:
            raise StoreError(f"{folder}: store.json was changed; delete the folder")
        return store

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock for filling the store: the second job waits, then finds the work done. Reading needs none.

        Raises:
            StoreError: where the lock's file cannot be made.
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
        """Take in segments that others have written since; a damaged one is named and passed over."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._segments:
                continue
            try:
                segment = _Segment(path, self.dim)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                log.warning(
                    "feature store: %s is not used (%s); its features are computed again, and the file can be deleted",
                    path,
                    error,
                )
                self._segments[path.name] = None
                continue
            self._segments[path.name] = segment
            # Segments are named by time: the newest place of a key is the one that counts.
            self._places.update((key, (path.name, row)) for row, key in enumerate(segment.keys))

    @property
    def unusable(self) -> list[Path]:
        """Files that are no whole segments of this store."""
        return [self.folder / name for name, segment in self._segments.items() if segment is None]

    def keys(self) -> list[bytes]:
        """The keys that the store holds."""
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
            The vectors (n, dim) and which of them (n) are there and match their checksum; the others are zero.
        """
        vectors = np.zeros((len(keys), self.dim), np.float32)
        found = np.zeros(len(keys), np.bool_)
        damaged: dict[str, int] = {}
        for n, key in enumerate(keys):
            place = self._places.get(key)
            if place is None:
                continue
            segment = self._segments[place[0]]
            assert segment is not None  # places are made from whole segments alone
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
        """Which of n keys are there and match their checksum (n), without keeping the vectors in memory."""
        parts = [self.read(keys[n : n + at_once])[1] for n in range(0, len(keys), at_once)]
        return np.concatenate(parts) if parts else np.zeros(0, np.bool_)

    def append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Add vectors as one segment; the file is there whole or not at all.

        Args:
            keys: n keys of `KEY_BYTES` bytes.
            vectors: (n, dim) float32.

        Raises:
            WriteError: where the disk is full or the folder cannot be written; the store is as it was.
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
            # Without it a damaged key would be one that nobody asks for, and the damage would have no name.
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
    """The length of a segment's vectors, or None where it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice("vectors").get_shape()[1])
    except (SafetensorError, OSError, IndexError):
        return None


def _checksum(key: bytes, vector: npt.NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(vector).tobytes(), zlib.crc32(key))


__all__ = ["FeatureStore", "feature_key"]
