"""Whatever bytes come from outside, they are read or refused, soon, and no memory is taken for what is not there."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutants import mutants
from tests.fuzz.readers import READERS

ROOT = Path(__file__).parent.parent.parent

_SHARE = 400
_WHOLE = 1_000_000
_AT_ONCE = 10_000

# Reads so many mutants under one GiB of memory; whoever takes minutes over a few thousand hangs, and is killed.
_CHILD = """
import faulthandler, random, resource, sys
from tests.fuzz.mutants import mutants
from tests.fuzz.readers import READERS

reader, count, seed = READERS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
read = 0
for number, body in zip(range(count), mutants(reader.seeds, reader.words, random.Random(seed))):
    if not number % int(sys.argv[4]):
        faulthandler.dump_traceback_later(600, exit=True)
    try:
        read += reader.take(body)
    except BaseException:
        print("after", body[:1000], file=sys.stderr)
        raise
print(read)
"""


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_what_it_should(name: str) -> None:
    """Else what follows would be about nothing."""
    assert all(map(READERS[name].take, READERS[name].seeds))


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_is_nearly_right(name: str) -> None:
    """Damage, other programs and typing errors are refused by name."""
    reader = READERS[name]
    stream = mutants(reader.seeds, reader.words, random.Random(name))
    read = sum(reader.take(next(stream)) for _ in range(_SHARE))
    assert read, "nothing of it could be read, so nothing was tried"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_reader_takes_anything(name: str, data: st.DataObject) -> None:
    """The same of bytes that were never right, and of such between others."""
    reader = READERS[name]
    seed = data.draw(st.sampled_from([b"", *reader.seeds]))
    at = data.draw(st.integers(0, len(seed)))
    noise = data.draw(st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | st.sampled_from(reader.words))
    reader.take(seed[:at] + noise + seed[at:])


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_a_million(name: str) -> None:
    """Without a crash, a hang, or more than a gibibyte."""
    arguments = [name, str(_WHOLE), "7", str(_AT_ONCE)]
    done = subprocess.run([sys.executable, "-c", _CHILD, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > _WHOLE // 100


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_a_guided_fuzzer_finds(name: str, tmp_path: Path) -> None:
    """A fuzzer that sees which lines are reached gets further than chance."""
    pytest.importorskip("atheris", reason="atheris is not installed; it has wheels for CPython on Linux only")
    for number, seed in enumerate(READERS[name].seeds):
        (tmp_path / str(number)).write_bytes(seed)
    arguments = [name, "-runs=100000", "-seed=7", "-max_len=4096", "-rss_limit_mb=1024", "-timeout=600", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz.guided", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_known_troublemakers_are_refused() -> None:
    """Found by fuzzing: a million lines are not needed to find them again."""
    found = [
        ("conditions", b"'a' * 9999999999"),  # took all memory
        ("conditions", b"'%99999999999d' % 1"),
        ("conditions", b"-" * 3_000 + b"1"),  # went beyond the stack, to say what was wrong with it
        ("inputs", b"note=x\nexpress=" + b"[" * 100_000),
    ]
    for name, body in found:
        READERS[name].take(body)
