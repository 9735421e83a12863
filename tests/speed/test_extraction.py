"""Times of extraction: every part once, over all clips, and a table of them."""

import pytest

pytest.importorskip("av")

from avdiff_jax.extract.collection import open_collection
from avdiff_jax.speed.extraction import Timing, measure_extraction, tabulate_extraction
from tests.extract.clips import write_clip
from tests.extract.test_run import encoders

SECONDS = {"a": 1.0, "b": 0.5}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in SECONDS.items():
        write_clip(folder / f"{name}.avi", seconds)
    return open_collection(folder).clips


def test_all_parts_pass_over_all_clips(clips):
    timings = list(measure_extraction(clips, encoders()))
    assert [timing.name for timing in timings] == ["decoding", "level", "number", "both"]
    for timing in timings:
        assert timing.clips == pytest.approx(sum(SECONDS.values()), abs=0.05)
        assert 0 < timing.wall < 60 and timing.cores > 0
    assert [bool(timing.limit) for timing in timings] == [False, True, True, True]


def test_a_single_encoder_needs_no_row_for_both(clips):
    timings = measure_extraction(clips, encoders(video=False))
    assert [timing.name for timing in timings] == ["decoding", "level"]


def test_the_table():
    table = tabulate_extraction([Timing("decoding", 100.0, 4.0, 8.0)], "a toaster")
    assert table.title == "Extraction, 100 s of clips on a toaster"
    assert table.rows == [["decoding", "25.0", "12.5", ""]]
