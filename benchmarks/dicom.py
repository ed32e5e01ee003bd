"""Time from C-STORE to the results: python benchmarks/dicom.py checkpoint=RUN [--images 60] [--side 2048]

``python -m covidnet.app dicom=PORT`` runs as a user would start it; a second archive on this machine sends one DICOM
image after the other, each as soon as it has the Structured Report and the Secondary Capture with the heat map of the
one before. The goal is a median of 600 ms on 2 cores.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from covidnet.data.phantoms.phantom import draw_image
from tests.serving.dicom.archives import archive, sent, until
from tests.serving.dicom.studies import radiograph
from tests.serving.web.commands import command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint=RUN, a sweep or an exported model")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--side", type=int, default=2048, help="of the images, in pixels")
    given = parser.parse_args()
    checkpoint = Path(given.checkpoint.removeprefix("checkpoint=")).resolve()
    pixels = cv2.resize(draw_image("Normal", 1, 0, size=256).image, (given.side, given.side)).astype(np.uint16) * 16
    with tempfile.TemporaryDirectory() as folder, archive() as peer:
        words = ("gate=warn", "dicom=0", f"peer=ARCHIVE@127.0.0.1:{peer.port}", f"outbox={folder}/outbox")
        with command(checkpoint, *words, cwd=Path(folder)) as server:
            found = re.search(r"COVIDNET@127\.0\.0\.1:(\d+)", "\n".join(server.lines))
            assert found is not None
            seconds = []
            for n in range(given.images):
                header = radiograph(n + 1)
                header.Rows = header.Columns = given.side
                header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
                header.PixelData = pixels.tobytes()
                header["PixelData"].VR = "OW"
                start = time.perf_counter()
                ((status, _),) = sent(int(found[1]), header)
                assert status == 0
                assert until(lambda wanted=2 * n + 2: len(peer.received) == wanted)
                seconds.append(time.perf_counter() - start)
            server.end()
    p95 = sorted(seconds)[int(0.95 * len(seconds))]
    print(
        f"{given.images} images of {given.side} x {given.side} pixels, 12 bits: C-STORE to both results in the archive"
    )
    print(f"p50 {1000 * statistics.median(seconds):.0f} ms, p95 {1000 * p95:.0f} ms, first {1000 * seconds[0]:.0f} ms")


if __name__ == "__main__":
    main()
