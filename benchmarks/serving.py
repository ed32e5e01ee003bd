"""Time of one image through the API, and images per second of an exported model.

    python benchmarks/serving.py checkpoint=RUN|SWEEP [--onnx FILE] [--clients 4] [--requests 200] [--image FILE ...]
                                 [--bad FILE]

The command ``python -m covidnet.app`` is started as a user would; clients on this machine ask one after the other, each
as soon as it has its answer (a closed loop), for the image with its heat map. Targets with 4 clients on 2 cores: p50
below 400 ms, p95 below 1 s. Then one more client sends a file that takes long to decode (a progressive JPEG of 49
megapixels, or --bad), again and again: p95 of the others at most twice what it is without, asked by one client, which
finds a core free. With --onnx, what ``python -m covidnet.predict`` does without panels, against the bare
engine on arrays that lie ready: at least 85 % of its rate.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.progress import available_cores
from covidnet.data.phantoms.phantom import draw_image

_BATCH = 8


def images(more: list[str], sides: list[int]) -> dict[str, list[bytes]]:
    """Uploads by kind, three of each: phantoms of four sizes, and files that were given."""
    drawn = {side: [draw_image(label, n, 0, size=side).image for n, label in enumerate(CLASSES)] for side in sides}

    def saved(side: int, kind: str) -> list[bytes]:
        found = []
        for image in drawn[side]:
            file = io.BytesIO()
            picture = Image.fromarray(image).resize((side, side))
            picture.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
            found.append(file.getvalue())
        return found

    found = {
        f"{side} x {side} {kind}": saved(side, kind)
        for side, kind in zip(sides, ("PNG", "JPEG", "PNG", "JPEG"), strict=True)
    }
    largest = sides[-1]
    found[f"{largest} x {largest} DICOM, 12 bits"] = [dicom(image) for image in drawn[largest]]
    return found | {Path(name).name: [Path(name).read_bytes()] for name in more}


def dicom(pixels: np.ndarray) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4", "CR"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.PixelData = (pixels.astype("<u2") * 16).tobytes()
    header["PixelData"].VR = "OW"
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


def slow_file(side: int) -> bytes:
    """A progressive JPEG of few bytes for its pixels."""
    file = io.BytesIO()
    ramp = np.arange(side, dtype=np.uint16) * 255 // side
    Image.fromarray(np.broadcast_to(ramp.astype(np.uint8), (side, side))).save(file, "JPEG", progressive=True)
    return file.getvalue()


class Server:
    """The command on a free port, without a limit on the rate of one address."""

    def __init__(self, checkpoint: str) -> None:
        words = [f"checkpoint={checkpoint}", "port=0", "rate=0", "gate=warn"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "covidnet.app", *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if line.startswith("http://"):
                self.address = urlsplit(line.split()[0]).netloc
                break
        else:
            sys.exit("".join(said))

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def closed_loop(address: str, uploads: list[bytes], clients: int, requests: int, query: str = "") -> list[float]:
    """Seconds of each request, from its first byte to the answer's last one."""
    taken: list[float] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def ask() -> None:
        line = http.client.HTTPConnection(address, timeout=60)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                break
            start = time.perf_counter()
            line.request("POST", f"/v1/predict{query}", uploads[number % len(uploads)])
            answer = line.getresponse()
            answer.read()
            taken.append(time.perf_counter() - start)
            if answer.status != 200:
                raise SystemExit(f"status {answer.status}")
        line.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def p95_of(taken: list[float]) -> float:
    return sorted(taken)[min(len(taken) - 1, round(0.95 * len(taken)))]


def beside_a_bad_file(address: str, uploads: list[bytes], bad: bytes, clients: int, requests: int) -> None:
    """What good requests take while one reader is always at a bad file."""
    without = p95_of(closed_loop(address, uploads, clients, requests))
    over = threading.Event()
    answers: list[tuple[int, float]] = []

    def send_bad() -> None:
        line = http.client.HTTPConnection(address, timeout=120)
        while not over.is_set():
            start = time.perf_counter()
            line.request("POST", "/v1/predict", bad)
            answer = line.getresponse()
            answer.read()
            answers.append((answer.status, time.perf_counter() - start))
        line.close()

    sender = threading.Thread(target=send_bad)
    sender.start()
    time.sleep(0.3)
    beside = p95_of(closed_loop(address, uploads, clients, requests))
    over.set()
    sender.join()
    statuses = sorted({status for status, _ in answers})
    print(
        f"  {clients} client(s) beside a bad file ({len(bad) / 1e6:.1f} MB, status {statuses}, "
        f"{statistics.mean(taken for _, taken in answers):.1f} s each): p95 {1000 * without:.0f} ms without, "
        f"{1000 * beside:.0f} ms with it; ratio {beside / without:.2f}"
    )


def through_the_api(
    checkpoint: str, clients: int, requests: int, more: list[str], bad: bytes, sides: list[int]
) -> None:
    server = Server(checkpoint)
    try:
        kinds = images(more, sides)
        closed_loop(server.address, next(iter(kinds.values())), clients, 4 * clients)
        print(
            f"{clients} clients, {requests} requests, with heat map: milliseconds p50 / p95 / most, images per second"
        )
        for name, uploads in kinds.items():
            start = time.perf_counter()
            taken = sorted(closed_loop(server.address, uploads, clients, requests))
            rate = len(taken) / (time.perf_counter() - start)
            p95 = p95_of(taken)
            p50 = statistics.median(taken)
            print(f"  {name:28} {1000 * p50:5.0f} / {1000 * p95:5.0f} / {1000 * taken[-1]:5.0f}   {rate:5.1f}")
        for count in sorted({1, clients}):
            beside_a_bad_file(server.address, kinds[f"{sides[2]} x {sides[2]} PNG"], bad, count, requests)
    finally:
        server.close()


def exported_rates(file: str, count: int = 160, rounds: int = 5) -> list[tuple[float, float]]:
    """Images per second of the bare engine, and of a prediction from file to table, in turn."""
    from covidnet.serving.answers import Predictor
    from covidnet.serving.batch import ImagePredictions
    from covidnet.serving.open_model import open_model
    from covidnet.serving.stream import Share

    bare_model, share = open_model(file, "onnx"), Share.of_cores()
    model = open_model(file, "onnx", share.threads)
    predictor = Predictor(model, "warn")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = [f"{n}.jpg" for n in range(count)]
        drawn = [draw_image(CLASSES[n % 3], n, 0, size=320).image for n in range(12)]
        for n, name in enumerate(names):
            Image.fromarray(drawn[n % len(drawn)]).save(root / name, quality=90)
        squares = np.stack([model.fit(image) for image in drawn])[:_BATCH]
        bare_model.outputs(squares)
        for turn in range(rounds):
            start = time.perf_counter()
            for _ in range(count // _BATCH):
                bare_model.outputs(squares)
            bare = count / (time.perf_counter() - start)
            start = time.perf_counter()
            ImagePredictions(predictor, root, names, root / f"out{turn}", passes=share.passes, progress=False).run()
            found.append((bare, count / (time.perf_counter() - start)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help="checkpoint=RUN, SWEEP or best.ckpt")
    parser.add_argument("--onnx", help="an exported model")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--bad", help="a file that takes long to decode")
    parser.add_argument("--bad-side", type=int, default=7000, help="pixels of the one that is made otherwise")
    parser.add_argument("--sides", type=int, nargs=4, default=[256, 320, 1024, 2048], help="pixels of the phantoms")
    parser.add_argument("--image", action="append", default=[], help="a file to upload beside the phantoms")
    given = parser.parse_args()
    print(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f}")
    bad = Path(given.bad).read_bytes() if given.bad else slow_file(given.bad_side)
    checkpoint = given.checkpoint.removeprefix("checkpoint=")
    through_the_api(checkpoint, given.clients, given.requests, given.image, bad, given.sides)
    if given.onnx:
        rates = exported_rates(given.onnx)
        bare, whole = (statistics.median(rate) for rate in zip(*rates, strict=True))
        ratios = sorted(whole / bare for bare, whole in rates)
        print(
            f"exported model, images per second, medians of {len(rates)} rounds: bare engine {bare:.1f}, "
            f"prediction {whole:.1f}; ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
