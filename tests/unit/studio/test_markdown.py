"""Markdown of a reply: what it shows, that it cannot do harm, that it grows block by block."""

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tuition.studio.markdown import render_block, render_markdown, split_blocks

TAGS = {
    "p",
    "br",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "ul",
    "ol",
    "li",
    "blockquote",
    "pre",
    "code",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "strong",
    "em",
    "del",
    "a",
    "span",
}
ATTRIBUTES = {"href", "target", "rel", "class", "start"}


class Checker(HTMLParser):
    """Fails on any tag, attribute or address that is not ours, and on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if name == "href":
                assert re.match(r"https?://|mailto:", value or ""), value
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(html: str) -> None:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** *c* `d`", "<p>a <strong>b</strong> <em>c</em> <code>d</code></p>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("one\ntwo", "<p>one<br>two</p>"),
        ("# T", "<h3>T</h3>"),
        ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'),
        ("> q", "<blockquote><p>q</p></blockquote>"),
        ("---", "<hr>"),
        ("```\n<b>\n```", "<pre><code>&lt;b&gt;</code></pre>"),
        (
            "| a | b |\n|---|---|\n| 1 |",
            "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
            "<tbody><tr><td>1</td><td></td></tr></tbody></table>",
        ),
        ("<script>x</script>", "<p>&lt;script&gt;x&lt;/script&gt;</p>"),
        ("![cat](http://evil/x.png)", '<p><span class="no-image">cat</span></p>'),
        ("[x](javascript:alert)", "<p>x</p>"),
        (r"\*not\*", "<p>*not*</p>"),
        ("**open", "<p>**open</p>"),
    ],
)
def test_what_is_written_is_shown(text: str, html: str) -> None:
    assert render_markdown(text) == html


def test_links_lead_out_without_a_trace() -> None:
    html = render_markdown("[a](https://example.org/?q=1&r=2)")
    assert 'href="https://example.org/?q=1&amp;r=2"' in html
    assert "noopener noreferrer" in html


pieces = st.sampled_from(
    [
        "<",
        ">",
        '"',
        "'",
        "&",
        "`",
        "```",
        "~~~",
        "*",
        "**",
        "_",
        "~~",
        "[",
        "](",
        ")",
        "![",
        "!",
        "# ",
        "- ",
        "1. ",
        "> ",
        "|",
        "\n|-|-|\n",
        "\n",
        "\n\n",
        "  ",
        "\\",
        "a",
        "b c",
        "http://x",
        "javascript:",
        "<img src=x onerror=y>",
        "<!--",
        "]]>",
        "\x00",
    ]
)


@settings(deadline=None, max_examples=400)
@given(st.lists(pieces, max_size=40).map("".join) | st.text(max_size=60))
def test_no_text_makes_html_that_is_not_ours(text: str) -> None:
    check(render_markdown(text))


@settings(deadline=None, max_examples=100)
@given(st.lists(pieces, max_size=40).map("".join), st.integers(0, 200))
@example("a\n```b`", 5)
def test_while_a_text_grows_only_its_last_block_changes(text: str, cut: int) -> None:
    before, after = split_blocks(text[:cut]), split_blocks(text)
    assert after[: max(0, len(before) - 1)] == before[:-1]


def test_the_whole_is_its_blocks() -> None:
    text = "# a\n\nb\n\n```\nc\n\nd\n```\ne"
    assert render_markdown(text) == "".join(map(render_block, split_blocks(text)))
    assert len(split_blocks(text)) == 4


@pytest.mark.parametrize(
    "unit",
    ["*", "[", "[](", "_a ", "**a", "*a **b", "> ", "- ", "|-", "```\n", "`a``b```", "*a*b", "![", "~~a"],
)
def test_no_text_makes_it_slow(unit: str) -> None:
    """80,000 characters of trouble; a second is far more than a linear scan takes on a busy machine."""
    text = unit * (80_000 // len(unit))
    begin = time.process_time()
    check(render_markdown(text))
    assert time.process_time() - begin < 3
