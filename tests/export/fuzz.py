"""Feed thousands of broken files to the loaders: mutated ONNX files, sidecars of engines, and locations of weights.

Each file is checked in this process, where only an ExportError may be raised, and then opened in a forked process
with a limit of time and memory. `open_stranger` starts a fresh process, which would take half a second for each.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx

from compressor.errors import ExportError
from compressor.exporting import check_file
from compressor.exporting.engine import Place, sidecar_path, trusted_bytes
from compressor.exporting.untrusted import limit_memory, opened_alone

PATIENCE_S = 20.0
PLACE = Place("tensorrt", "11.4", "H100 sm_90", "580.1")
Mutation = Callable[[bytes, random.Random], bytes]


def fuzz_onnx(seeds: list[bytes], folder: Path, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Results of ``count`` mutants, and the failures among them: a traceback, a hang."""
    chance, path = random.Random(seed), folder / "mutant.onnx"
    ends: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(count):
        name, mutate = chance.choice(list(MUTATIONS.items()))
        path.write_bytes(mutate(chance.choice(seeds), chance))
        started = time.monotonic()
        try:
            check_file(path)
        except ExportError as error:
            ends["refused"] += 1
            if "\n" in str(error):
                failures.append(f"{number} {name}: more than one line")
        except BaseException as error:
            failures.append(f"{number} {name}: {type(error).__name__}")
        else:
            ends[_opened(path)] += 1
        if time.monotonic() - started > PATIENCE_S:
            failures.append(f"{number} {name}: a hang")
    if ends["hang"] or ends["traceback"]:
        failures.append(f"{ends['hang']} hangs and {ends['traceback']} tracebacks while opening")
    return ends, failures


def fuzz_sidecars(engine: Path, count: int, seed: int = 0) -> list[str]:
    """Mutants of an engine or of its sidecar: each is refused, or the loaded bytes are those of the built engine."""
    chance, failures = random.Random(seed), []
    content, said = engine.read_bytes(), sidecar_path(engine).read_bytes()
    for number in range(count):
        name, mutate = chance.choice([pair for pair in MUTATIONS.items() if pair[0] not in STRUCTURED])
        files = {engine: content, sidecar_path(engine): said}
        broken = chance.choice(list(files))
        for file, data in files.items():
            file.write_bytes(mutate(data, chance) if file == broken else data)
        try:
            if trusted_bytes(engine, PLACE) != content:
                failures.append(f"{number} {name}: another engine was trusted")
        except ExportError:
            pass
        except BaseException as error:
            failures.append(f"{number} {name}: {type(error).__name__}")
    return failures


def _opened(path: Path) -> str:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        code = 3
        try:
            limit_memory(path)
            code = opened_alone(path)
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "opened", 1: "refused by the runtime", 3: "traceback"}.get(code, "crashed, alone")
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _cut_out(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randrange(1, 200) :]


def _repeated(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start : start + 200] * chance.choice((1, 2, 50)) + data[start:]


def _huge_number(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + b"\xff" * chance.choice((4, 9)) + b"\x7f" + data[start + 5 :]


def _head_only(data: bytes, chance: random.Random) -> bytes:
    """Mutate mostly the structure of the file, because mutations of weights seldom matter."""
    changed = bytearray(data)
    for _ in range(4):
        changed[chance.randrange(min(len(changed), 2000))] = chance.randrange(256)
    return bytes(changed)


def _huge_sizes(data: bytes, chance: random.Random) -> bytes:
    model = onnx.load_from_string(data)
    chance.choice(model.graph.initializer).dims.append(chance.choice((-1, 1 << 30, 1 << 62)))
    return model.SerializeToString()


def _elsewhere(data: bytes, chance: random.Random) -> bytes:
    model = onnx.load_from_string(data)
    tensor = chance.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    places = ("../../etc/passwd", "/etc/passwd", "", "mutant.onnx", "nowhere", "a\0b", "x" * 5000)
    for key, value in (("location", chance.choice(places)), ("offset", chance.choice(("-1", "9" * 30, "x")))):
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def _wrong_attribute(data: bytes, chance: random.Random) -> bytes:
    model = onnx.load_from_string(data)
    attributes = [a for node in model.graph.node for a in node.attribute if a.ints or a.i]
    if attributes:
        attribute = chance.choice(attributes)
        attribute.i = chance.choice((-1, 1 << 40, -(1 << 63)))
        for index in range(len(attribute.ints)):
            attribute.ints[index] = chance.choice((-1, 0, 1 << 31, 1 << 62))
    return model.SerializeToString()


def _rewired(data: bytes, chance: random.Random) -> bytes:
    model = onnx.load_from_string(data)
    node = chance.choice(model.graph.node)
    other = chance.choice(model.graph.node)
    if node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice((*other.output, *other.input))
    if chance.random() < 0.5:
        node.op_type = other.op_type
    return model.SerializeToString()


MUTATIONS: dict[str, Mutation] = {
    "flip": _flip,
    "cut off": _cut_off,
    "cut out": _cut_out,
    "repeated": _repeated,
    "huge number": _huge_number,
    "head": _head_only,
    "huge sizes": _huge_sizes,
    "elsewhere": _elsewhere,
    "attribute": _wrong_attribute,
    "rewired": _rewired,
}
STRUCTURED = {"huge sizes", "elsewhere", "attribute", "rewired"}
