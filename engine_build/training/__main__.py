"""`python3 -m engine_build.training STAGE`: `changeroom train` for a machine that has torch and little else."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from engine_build.errors import CheckpointError, RequestError
from engine_build.training.train import NAMES, Asked, main


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m engine_build.training", description=__doc__)
    parser.add_argument("stage", choices=NAMES, help="recipe runs every stage that has a table in the file")
    parser.add_argument("--config", type=Path, required=True, help="the configuration file")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--out", type=Path, help="the run's folder, instead of the file's own")
    parser.add_argument("--minutes", type=float, help="stop, saved, after so long")
    parser.add_argument("--samples", type=int, default=200, help="for export: held-out try-ons to judge both models by")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = _arguments()
    try:
        print(main(given.stage, given.config, Asked(given.resume, given.out, given.minutes, given.samples)))
    except (RequestError, CheckpointError) as error:
        sys.exit(f"error: {error}")
