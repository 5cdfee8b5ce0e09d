"""The benchmarks keep running; how fast anything is, is not asked here."""

from pathlib import Path

import pytest

from bench import __main__ as command
from bench import latency, report, resume
from bench.lab import TINY, Lab
from bench.machine import here
from bench.peer import REPO
from bench.report import Result
from bench.stats import Figure, Report, Spread, percentile, ratios, short, spread
from bench.wire import Frames

FIGURES = (Figure("this", "ms", Spread(2, 1, 3, 5), headline=True), Figure("that", "%", spread([4])))
RESULT = Result(here("tiny", 1.0, 0.5), Report("Some title", FIGURES, ("so",)))


def frame(opcode: int, size: int) -> bytes:
    """An unmasked frame as a server sends it."""
    if size < 126:
        return bytes((0x80 | opcode, size)) + bytes(size)
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + bytes(size)
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + bytes(size)


def test_replaying_after_an_absence_can_be_measured(tmp_path: Path) -> None:
    """A whole benchmark with its server, its writer and its client gives all of its figures."""
    found = resume.run(Lab(tmp_path, TINY))
    assert [figure.unit for figure in found.figures] == ["ms", "ms", "µs", "ms"]
    assert all(figure.value.count == TINY.resume_rounds for figure in found.figures)


def test_the_floor_program_sees_every_commit(tmp_path: Path) -> None:
    """It is what the bridge is compared with: one that misses commits would be no floor."""
    lab = Lab(tmp_path, TINY)
    for journal, synchronous in (("wal", "normal"), ("delete", "full")):
        database = lab.database(10, journal)
        with lab.writer(database, journal, synchronous) as writer:
            turn = latency._floor_turn(lab, writer, database, journal)
        assert len(turn) == TINY.latency_commits - latency.WARM


@pytest.mark.parametrize("step", [1, 2, 3, 7, 130, 70_000])
def test_frames_are_counted_wherever_the_chunks_are_cut(step: int) -> None:
    """A frame counts once, when its last byte is there."""
    data = b"".join(frame(opcode, size) for opcode, size in ((1, 5), (9, 0), (1, 300), (1, 70_000), (8, 2), (1, 125)))
    frames = Frames()
    seen = [frames.feed(data[at : at + step]) for at in range(0, len(data), step)]
    assert [sum(s.texts for s in seen), sum(s.pings for s in seen), sum(s.closes for s in seen)] == [4, 1, 1]


def test_a_percentile_is_one_of_the_values() -> None:
    """Nearest rank: nothing is interpolated."""
    values = [float(value) for value in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (100.0, 198.0, 7.0)


def test_a_ratio_is_taken_within_its_pair() -> None:
    """A slow minute meets both halves of a pair, so it cancels out."""
    assert ratios([2.0, 20.0], [1.0, 10.0]) == Spread(2.0, 2.0, 2.0, 2)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (123.4, "123"), (12345.6, "12,346"), (10.0, "10")]
)
def test_figures_have_three_significant_digits(value: float, text: str) -> None:
    """More would be noise."""
    assert short(value) == text


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    """A later run of some benchmarks keeps the results of the others."""
    report.save(tmp_path / "results.json", {"one": RESULT})
    assert report.load(tmp_path / "results.json") == {"one": RESULT}
    assert report.load(tmp_path / "none.json") == {}


def test_only_the_marked_section_of_a_document_is_rewritten(tmp_path: Path) -> None:
    """Twice gives the same as once."""
    document = tmp_path / "README.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        report.rewrite(document, report.markdown({"one": RESULT}, headlines_only=True))
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{report.BEGIN}\n|")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "2 (1–3) ms" in text
    assert "that" not in text
    assert "old" not in text


def test_a_document_without_marks_is_left_alone(tmp_path: Path) -> None:
    """Nothing is overwritten by guessing."""
    document = tmp_path / "README.md"
    document.write_text("all mine", encoding="utf-8")
    with pytest.raises(report.NoMarks):
        report.rewrite(document, "x")
    assert document.read_text(encoding="utf-8") == "all mine"


def test_every_benchmark_is_explained() -> None:
    """docs/benchmarks.md has a heading for each and a place for the results."""
    text = (REPO / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert report.BEGIN in text
    missing = [name for name in command.BENCHMARKS if f"`{name}`" not in text]
    assert not missing
