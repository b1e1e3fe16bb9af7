"""A reader sees plain names, and files keep those that programs read."""

import pandas as pd

from cbtlib import metrics, naming, report


def test_a_metric_has_a_plain_name_and_a_stranger_keeps_its_own():
    assert not [name for name in metrics.METRICS if "_" in str(naming.shown(name))]
    assert set(naming.METRICS) - {"bleurt"} <= set(metrics.METRICS), "BLEURT is a metric once its checkpoint is there"
    assert naming.shown("my_model") == "my_model" and naming.shown(3) == 3


def test_a_table_shows_plain_names_and_its_file_keeps_the_others(tmp_path):
    page = report.Page("05_evaluation", "smoke", str(tmp_path))
    frame = pd.DataFrame(
        {"p_holm": [0.5, 1.0], "missed": ["mind_reading|labelling", None], "text": ["key_thought", "p_holm"]},
        index=pd.Index(["meteor_char", "my_model"], name="name"),
    )
    shown = page.table("t", frame, caption="c", named=["missed"]).to_html()
    for name in ("p (Holm)", "METEOR (characters)", "my_model", "mind reading, labelling", "key_thought", ">p_holm<"):
        assert name in shown
    assert "meteor_char" not in shown and "mind_reading" not in shown
    pd.testing.assert_frame_equal(pd.read_csv(page.dir / "t.csv", index_col="name"), frame)
    for index in naming.VERBATIM:
        assert "meteor_char" in page.table("t", frame.rename_axis(index), caption="c").to_html()
