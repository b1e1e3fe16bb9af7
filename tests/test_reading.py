"""The encoding of a file is found, and what is no Chinese is refused before anything looks at it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opencc import OpenCC

from cbtlib import CbtError, corpus, reading, safety

POSTS = [record.post for record in corpus.load_split("test")]
JAPANESE = "今日は学校に行きたくないです。友達とけんかしてしまいました。どうすればいいですか。毎日とても疲れています。"
KOREAN = "오늘은 학교에 가기 싫어요. 친구와 싸웠어요. 어떻게 해야 하나요. 매일매일 너무 피곤하고 잠을 잘 수가 없어요."


@given(posts=st.lists(st.sampled_from(POSTS), min_size=1, max_size=5), encoding=st.sampled_from(["gbk", "utf-8"]))
def test_chinese_in_gbk_or_utf_8_is_read(tmp_path_factory, posts, encoding):
    path = tmp_path_factory.mktemp("read") / "posts.txt"
    text = "\n".join(posts).encode(encoding, "ignore").decode(encoding)
    path.write_bytes(text.encode(encoding))
    assert [line for _, line in reading.lines(path)] == [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(OpenCC("s2t").convert(POSTS[0]), "big5"), (JAPANESE, "shift_jis"), (KOREAN, "euc_kr")],
)
def test_another_encoding_is_never_read_as_gbk(tmp_path, text, encoding):
    path = tmp_path / "posts.csv"
    path.write_bytes(f"question,description\n{text.replace(chr(10), ' ')},\n".encode(encoding, "ignore"))
    with pytest.raises(CbtError, match=r"posts.csv is neither UTF-8 nor GBK.*save it as UTF-8"):
        list(reading.rows(path))


def test_triage_is_not_asked_about_a_crisis_in_an_encoding_that_it_cannot_read(tmp_path):
    path = tmp_path / "posts.csv"
    path.write_bytes("text,label\n我想自殺，真的不想活了，遺書都寫好了,1\n今天天氣很好,0\n".encode("big5"))
    with pytest.raises(CbtError, match="Big5 perhaps"):
        safety.read_labelled(path)
