"""``python -m tests.fuzz [TARGET ...]``: a million inputs for each target, one target after the other.

With ``--atheris`` (which must be installed, and wants an interpreter that it was built for) the inputs are libFuzzer's;
``--seconds`` and ``--inputs`` hold there too.  Exit status 1 when something was found; ``--keep`` writes it into the
corpus, for a regression test.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile

from tests.fuzz.harness import Report, hangs_are_found, keep, run
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz what parses the words of strangers."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs for each target (default: a million)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="so long for each target at most")
    parser.add_argument("--seed", type=int, default=0, help="another number, other inputs")
    parser.add_argument("--keep", action="store_true", help="write what is found into tests/fuzz/corpus")
    parser.add_argument("--atheris", action="store_true", help="inputs guided by coverage, by atheris")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in arguments.targets or TARGETS]
    if arguments.atheris:
        if len(chosen) != 1:
            parser.error("atheris takes one target; name it")
        return _atheris(chosen[0], arguments.inputs, arguments.seconds)
    clean = True
    for target in chosen:
        with hangs_are_found(target) as alive:

            def progress(report: Report, alive: object = alive) -> None:
                print(f"  ... {report.inputs} inputs, {report.seconds:.0f} s", file=sys.stderr, flush=True)

            report = run(
                target,
                inputs=arguments.inputs,
                seed=arguments.seed,
                seconds=arguments.seconds,
                progress=progress,
                alive=alive,
            )
        print(report, flush=True)
        if arguments.keep:
            for finding in report.findings:
                print(f"  written to {keep(target, finding)}")
        clean = clean and report.is_clean
    return 0 if clean else 1


def _atheris(target: Target, inputs: int, seconds: float) -> int:
    atheris = importlib.import_module("atheris")  # it has no types, and is seldom there

    # What is imported already counts no coverage: the parsers are imported again, and nothing but them is slowed down.
    for module in [name for name in sys.modules if name.startswith(("mailsvc", "tests.fuzz."))]:
        del sys.modules[module]
    with atheris.instrument_imports(include=["mailsvc"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[target.name]
    limit = [f"-max_total_time={int(seconds)}"] if seconds != float("inf") else []
    # libFuzzer writes what it finds new into the first folder; the committed corpus is the second.
    new = tempfile.mkdtemp(prefix=f"fuzz-{target.name}-")
    atheris.Setup(
        [sys.argv[0], f"-runs={inputs}", *limit, new, str(target.folder)], lambda data: target.check(data) and None
    )
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
