"""The README's section "How fast", written from reports of ``edgevae bench``, so that nobody types a figure.

    python benches/write_readme.py --save DIR    # run what DIR lacks, hours in all; leave the machine alone
    python benches/write_readme.py --from DIR    # run nothing

Both write between the markers in README.md, and draw docs/images/bench.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgevae.bench import BenchReport, Timing, run_bench
from edgevae.bench.plot import write_plot
from edgevae.bench.report import table
from edgevae.errors import EdgevaeError
from edgevae.files import write_json, write_whole

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PLOT = Path("docs/images/bench.png")
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

MODELS = {"full": "full", "edge": "edge", "width64": "random:64"}
TITLES = {"full": "full", "edge": "edge", "width64": "width 64"}
NETWORKS = ("encode", "posterior", "decode")


@dataclass(frozen=True)
class Run:
    """One report: a model of ``MODELS`` at a setting."""

    model: str
    precision: str
    threads: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.precision}-threads{self.threads}-batch{self.batch}.json"


RUNS = [
    Run(model, precision, threads, batch)
    for model in MODELS
    for precision in ("fp32", "fp16", "int8")
    for threads in (1, 2)
    for batch in (1, 16)
]

Reports = dict[Run, BenchReport]


def read(folder: Path) -> Reports:
    """The reports that ``folder`` holds."""
    reports = {}
    for run in RUNS:
        path = folder / run.name
        if path.exists():
            try:
                reports[run] = BenchReport.from_document(json.loads(path.read_text()))
            except (ValueError, TypeError, KeyError) as error:
                raise EdgevaeError(
                    f"{path} is no report of 'edgevae bench --json' of this version ({error!r}); delete it."
                ) from None
    return reports


def measure(folder: Path, rounds: int, wanted: Iterable[Run]) -> None:
    """Run what ``folder`` does not hold, each report written as it is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in wanted:
        if (folder / run.name).exists():
            continue
        print(run.name, file=sys.stderr, flush=True)
        try:
            report = run_bench(
                MODELS[run.model],
                against=["all"],
                precision=run.precision,
                threads=run.threads,
                batch=run.batch,
                rounds=rounds,
            )
        except EdgevaeError as error:  # the others are worth having all the same
            print(f"{run.name} failed: {error}", file=sys.stderr, flush=True)
            continue
        write_json(folder / run.name, report.document())


def block(reports: Reports) -> str:
    """What stands between the markers."""
    main = {model: reports[run] for model in MODELS if (run := Run(model, "fp32", 1, 1)) in reports}
    if not main:
        raise EdgevaeError(
            f"there is no {Run(next(iter(MODELS)), 'fp32', 1, 1).name}; "
            "run 'python benches/write_readme.py --save DIR'."
        )
    model, first = next(iter(main.items()))
    rounds = " or ".join(str(each) for each in sorted({report.rounds for report in reports.values()}))
    versions = ", ".join(f"{facts.engine} {facts.version}" for facts in first.engines)
    parts = [
        f"`edgevae bench --against all --threads 1` on {first.processor} with {first.isa.upper()}, 128×128 "
        "RGB-D to 400 numbers, fp32, batch 1, engines taking turns in processes of their own, median of "
        f"{rounds} turns (15 ms of run-up, then one timed call), after answers were compared with a float64 "
        "run. Read the ratios; the machine is shared. `full` and `edge` are the shipped models, whose files "
        "hold fp16 (the rows below with fp16 give it to the others, too); width 64 is the published network "
        "with random weights.",
        f"![Milliseconds of each engine]({PLOT})",
        table(_engines_table(main)),
        "Other settings, each against the fastest other engine, for int8 with the cosine of both to the "
        f"float model's latents ({versions}):",
        table(_settings_table(reports)),
        *_start_up(TITLES[model], first),
        *_packing(main.values()),
    ]
    return "\n\n".join(parts)


def _engines_table(main: dict[str, BenchReport]) -> list[list[str]]:
    """A row an operation: edgevae's time, and how many times as long the others take."""
    names = list(dict.fromkeys(t.engine for r in main.values() for t in r.timings if t.operation in NETWORKS))
    names.remove("edgevae")
    rows = [["", "", "edgevae", *names, "largest error"]]
    for model, report in main.items():
        title = TITLES[model]
        for operation in NETWORKS:
            timings = {t.engine: t for t in report.timings if t.operation == operation}
            if not timings:
                continue
            ratios = [f"{timings[name].ratio:.1f}×" if name in timings else "" for name in names]
            error = max(t.error for t in timings.values() if t.error is not None)
            rows.append([title, operation, _ms(timings["edgevae"]), *ratios, f"{error:.0e}"])
            title = ""
    return rows


def _settings_table(reports: Reports) -> list[list[str]]:
    rows = [["", "weights", "threads", "batch", *NETWORKS]]
    last = ""
    for run, report in reports.items():
        if run == Run(run.model, "fp32", 1, 1):
            continue
        cells = []
        for operation in NETWORKS:
            timings = [t for t in report.timings if t.operation == operation]
            ours = [t for t in timings if t.engine == "edgevae"]
            others = [t for t in timings if t.engine != "edgevae"]
            cell = _ms(ours[0]) if ours else ""
            cosines = [ours[0].cosine] if ours else []
            if others:
                best = min(others, key=lambda timing: timing.ratio)
                cell += f", {best.engine} {best.ratio:.1f}×"
                cosines.append(best.cosine)
            if run.precision == "int8" and operation == "encode":
                shown = " and ".join(f"{cosine:.4f}" for cosine in cosines if cosine is not None)
                cell += f" (cosine {shown})" if shown else ""
            cells.append(cell)
        title = "" if run.model == last else TITLES[run.model]
        rows.append([title, run.precision, str(run.threads), str(run.batch), *cells])
        last = run.model
    return rows


def _start_up(title: str, report: BenchReport) -> list[str]:
    return [
        f"A new process until its first latent, with the encoder and the decoder loaded ({title}; "
        "torch.compile with its cache filled):",
        table(report.engine_rows()),
    ]


def _packing(reports: Iterable[BenchReport]) -> list[str]:
    """Of the report with most engines that pack: OpenCV's way fills no holes, as shipped models want."""
    report = max(reports, key=lambda each: sum(t.operation.startswith("pack") for t in each.timings))
    cells = []
    for timing in report.timings:
        if timing.operation.startswith("pack") and timing.engine == "edgevae":
            size = timing.operation.removeprefix("pack ").replace("x", "×")
            others = [t for t in report.timings if t.operation == timing.operation and t is not timing]
            ratios = ", ".join(f"{t.engine} {t.ratio:.1f}×" for t in others)
            cells.append(f"{size} {_ms(timing)}" + (f" ({ratios})" if ratios else ""))
    return [f"A camera frame to network input, one thread: {', '.join(cells)}."] if cells else []


def _ms(timing: Timing) -> str:
    return f"{timing.median_ms:.1f} ms" if timing.median_ms >= 1 else f"{timing.median_ms:.2f} ms"


def write(reports: Reports) -> None:
    """Replace the README's block, and draw the plot."""
    text = README.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise EdgevaeError(f"README.md wants the lines {BEGIN} and {END}, once each and in this order.")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    content = f"{head}{BEGIN}\n\n{block(reports)}\n\n{END}{tail}"
    main = [reports[run] for model in MODELS if (run := Run(model, "fp32", 1, 1)) in reports]
    write_plot(main, ROOT / PLOT, NETWORKS)
    write_whole(README, content.encode())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--save", type=Path, metavar="DIR", help="run what DIR lacks, and keep the reports there"
    )
    where.add_argument("--from", type=Path, metavar="DIR", dest="kept", help="use the reports in DIR")
    parser.add_argument("--rounds", type=int, default=60, metavar="N")
    arguments = parser.parse_args()
    try:
        if arguments.save is not None:
            measure(arguments.save, arguments.rounds, RUNS)
        write(read(arguments.save or arguments.kept))
    except EdgevaeError as error:
        print(f"write_readme: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
