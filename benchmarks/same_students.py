"""Do two checkouts make the same students, to the bit?

    python benchmarks/same_students.py CHECKOUT_A CHECKOUT_B [--methods kd,steps,…] [--epochs 1]

Each method runs once in each checkout on the built-in pair, whose teacher each trains for itself, with one thread and
in a process of its own; the hashes of the tensors of `student/` are compared. Ends with 1 if any differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

METHODS = ("kd", "steps", "cascade", "multi-teacher", "repair", "finetune")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("checkouts", nargs=2, type=Path)
    options.add_argument("--methods", default=",".join(METHODS))
    options.add_argument("--epochs", type=int, default=1)
    given = options.parse_args()
    differ = False
    with tempfile.TemporaryDirectory() as work:
        for method in given.methods.split(","):
            hashes = [
                student(checkout.resolve(), method, given.epochs, Path(work) / f"{number}")
                for number, checkout in enumerate(given.checkouts)
            ]
            differ |= hashes[0] != hashes[1]
            print(
                f"{method:<16} {'same' if hashes[0] == hashes[1] else 'DIFFERENT'}  {' '.join(hashes)}",
                flush=True,
            )
    sys.exit(differ)


def student(checkout: Path, method: str, epochs: int, work: Path) -> str:
    """The hash of the tensors of the student that this checkout makes."""
    work.mkdir(exist_ok=True)
    recipe, out = work / f"{method}.toml", work / method
    recipe.write_text(
        f'[budget]\nremove = 0.7\n[distil]\nmethod = "{method}"\n'
        f"[distil.schedule]\nepochs = {epochs}\nwarmup_epochs = 0.0\n"
        '[export]\nto = ["onnx"]\n[profile]\nruntimes = ["onnxruntime"]\nsamples = 10\n'
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "COMPRESS_CACHE": str(work / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "compressor", "run", "--recipe", str(recipe), "--out", str(out)]
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    weights = out / "student/weights.safetensors"
    if not weights.exists():
        raise SystemExit(f"{checkout}: {method} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
