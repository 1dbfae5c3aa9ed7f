"""What is read of HTML, whatever it is made of."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tools.pages import readable


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<head><title>T</title><body>said", "said"),
        ("<head><title>T</title><p>said", "said"),
        ("a<script>var x = '<p>';</script>b<style>p{}</style>c", "abc"),
        ("a<SCRIPT type=x>if (a</b) '</scripts>'</Script >b", "ab"),
        ("a<script>b", "a"),
        ("one<br>two<ul><li>three<li>four</ul>", "one\ntwo\nthree\nfour"),
        ("a  \n  b<svg><text>no</text></svg>", "a b"),
        ("a<svg/>b<template><p>no</template>c", "abc"),
        ("a <b> b</b> c", "a b c"),
        ("<p>a<p><p><p><p>b", "a\n\nb"),
        ("<p>a<!-- not > this --></p></script>b", "a\nb"),
        ("a<!-->b<!---->c<!-- d", "abc"),
        ("<!DOCTYPE html><?xml?>a<![CDATA[x]]>b</>c</ d>e", "abce"),
        ('<a title="x > y" href=\'>\' alt = ">">a</a>', "a"),
        ("<a title=it's>a</a> it's", "a it's"),
        ('<a title="never ends>a</a>', "a"),
        ("1 < 2 <= 3 <", "1 < 2 <= 3 <"),
        ("a<b", "a"),
        ("&lt;p&gt; &amp;amp; &#65;&#x42; &nosuch;", "<p> &amp; AB &nosuch;"),
        ("a&#10;b&#8232;c", "a b c"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("<ä>", "<ä>"),
        ("", ""),
    ],
)
def test_markup_is_left_out(markup: str, text: str) -> None:
    assert readable(markup) == text


@pytest.mark.parametrize(
    "piece",
    [
        *("<", "</", "<!", "<?", "<!--", "<![CDATA[", "<a ", '<a href="', "<a x='", "<a ='\">", "</a", "<b\n"),
        *("<script>", "<script></scrip", "<svg>", "<p>", "&#", "&a", "<a = ", "\n", " \n"),
    ],
)
def test_no_page_takes_long(piece: str) -> None:
    """A reader that goes back over what it has read takes hours for these."""
    page = (piece * 1_000_000)[:1_000_000]
    began = time.process_time()
    readable(page)
    assert time.process_time() - began < 15


PIECES = [*"<>/!?-='\" a&;#x1\n", "<p", "<script", "</script", "<!--", "-->", "<svg>"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_page_is_read(page: str) -> None:
    said = readable(page)
    assert said == said.strip()
    assert re.search(r"\n{3}|[^\S\n]{2}", said) is None


@given(st.text("abc \n", max_size=50))
def test_plain_text_stays(text: str) -> None:
    assert readable(text) == " ".join(text.split())
