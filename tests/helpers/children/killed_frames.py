"""Reads batches of frames and notes each with the loader's position, until it is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from frameloom.train.data import FrameLoader, FrameOptions

from helpers.frames import write_frames


def main(root: Path, notes: Path, num_workers: int, last: int, previous: Path) -> None:
    clips = write_frames(root)
    loader = FrameLoader(
        root, clips, options=FrameOptions(size=16, training=True), batch_size=3, seed=5, num_workers=num_workers
    )
    if previous.is_file():
        loader.load_state_dict(json.loads(previous.read_text().splitlines()[-1])[3])
    number = 0
    with notes.open("a") as file:
        while loader.epoch < 2:
            for batch in loader:
                number += 1
                digest = int(batch.frames.long().sum())
                print(json.dumps([batch.clips, batch.captions, digest, loader.state_dict()]), file=file, flush=True)
                if number == last:
                    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
