"""Markdown of a model's reply as harmless HTML.

In: untrusted text.  Out: HTML with a few fixed tags around escaped text.
No raw HTML passes, no image is loaded (its description is shown), links lead to http, https or mailto only.
Every scan is linear in the length of the text. A reply is cut into blocks, so that only its last block is
drawn again while it grows.
"""

import re
from html import escape

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:\s+|$)")
_BULLET = re.compile(r"(\s*)[-*+]\s+(?=\S)")
_NUMBER = re.compile(r"(\s*)(\d{1,6})[.)]\s+(?=\S)")
_RULE = re.compile(r" {0,3}([-*_])(?: *\1){2,} *$")
_TABLE_RULE = re.compile(r" *\|?(?: *:?-+:? *\|)* *:?-+:? *\|? *$")
_SAFE_LINK = re.compile(r"(?:https?://|mailto:)[^\s\"'<>]+$")
_MAX_NESTING = 4


def split_blocks(text: str) -> list[str]:
    """Cut at blank lines outside of code fences; every block but the last is final while the text grows."""
    blocks: list[str] = []
    current: list[str] = []
    fence = ""
    for line in text.split("\n"):
        if fence:
            current.append(line)
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
                blocks.append("\n".join(current))
                current = []
            continue
        opened = _FENCE.match(line)
        if opened:  # a cut even where the line turns out to be no fence: what came before is final
            if current:
                blocks.append("\n".join(current))
            current, fence = [line], opened[1] if _is_fence(opened) else ""
        elif line.strip():
            current.append(line)
        elif current:
            blocks.append("\n".join(current))
            current = []
    if current:
        blocks.append("\n".join(current))
    return blocks


def _is_fence(opened: re.Match[str]) -> bool:
    """Behind backticks there may be no other backtick in the line."""
    return opened[1][0] == "~" or "`" not in opened.string[opened.end(1) :]


def render_markdown(text: str) -> str:
    """The whole text as HTML."""
    return "".join(render_block(block) for block in split_blocks(text))


def render_block(block: str) -> str:
    """One block of `split_blocks` as HTML."""
    lines = block.split("\n")
    fence = _FENCE.match(lines[0])
    if fence and _is_fence(fence):
        return _code_block(lines, fence)
    return _flow(lines, 0)


def _code_block(lines: list[str], fence: re.Match[str]) -> str:
    body = lines[1:]
    if body and body[-1].strip().startswith(fence[1]):
        body = body[:-1]
    label = f'<span class="code-language">{escape(fence[2])}</span>' if fence[2] else ""
    return f"<pre>{label}<code>{escape(chr(10).join(body))}</code></pre>"


def _flow(lines: list[str], nesting: int) -> str:
    """Lines without fences: headings, rules, lists, quotes, tables, paragraphs."""
    html: list[str] = []
    paragraph: list[str] = []

    def end_paragraph() -> None:
        if paragraph:
            html.append(f"<p>{'<br>'.join(render_inline(line.strip()) for line in paragraph)}</p>")
            paragraph.clear()

    index = 0
    while index < len(lines):
        line = lines[index]
        heading = _HEADING.match(line)
        if not line.strip():
            end_paragraph()
            index += 1
        elif heading:
            end_paragraph()
            level = min(6, len(heading[1]) + 2)
            content = line[heading.end() :].strip().rstrip("#").rstrip()
            html.append(f"<h{level}>{render_inline(content)}</h{level}>")
            index += 1
        elif _RULE.match(line):
            end_paragraph()
            html.append("<hr>")
            index += 1
        elif nesting < _MAX_NESTING and line.lstrip().startswith(">"):
            end_paragraph()
            index, piece = _quote(lines, index, nesting)
            html.append(piece)
        elif nesting < _MAX_NESTING and (_BULLET.match(line) or _NUMBER.match(line)):
            end_paragraph()
            index, piece = _list(lines, index, nesting)
            html.append(piece)
        elif (
            "|" in line and index + 1 < len(lines) and "-" in lines[index + 1] and _is_rule(lines[index + 1])
        ):
            end_paragraph()
            index, piece = _table(lines, index)
            html.append(piece)
        else:
            paragraph.append(line)
            index += 1
    end_paragraph()
    return "".join(html)


def _is_rule(line: str) -> bool:
    return len(line) < 1_000 and "|" in line and _TABLE_RULE.match(line) is not None


def _quote(lines: list[str], index: int, nesting: int) -> tuple[int, str]:
    inner: list[str] = []
    while index < len(lines) and lines[index].lstrip().startswith(">"):
        inner.append(lines[index].lstrip()[1:].removeprefix(" "))
        index += 1
    return index, f"<blockquote>{_flow(inner, nesting + 1)}</blockquote>"


def _list(lines: list[str], index: int, nesting: int) -> tuple[int, str]:
    number = _NUMBER.match(lines[index])
    marker = _NUMBER if number else _BULLET
    first = marker.match(lines[index])
    indent = len(first[1]) if first else 0
    items: list[list[str]] = []
    while index < len(lines):
        line = lines[index]
        here = marker.match(line)
        depth = len(line) - len(line.lstrip())
        if here and len(here[1]) <= indent + 1:
            items.append([line[here.end() :]])
        elif items and line.strip() and depth > indent:
            items[-1].append(line[min(depth, indent + 2) :])
        else:
            break
        index += 1
    content = "".join(f"<li>{_item(item, nesting)}</li>" for item in items)
    if number:
        return index, f'<ol start="{int(number[2])}">{content}</ol>'
    return index, f"<ul>{content}</ul>"


def _item(lines: list[str], nesting: int) -> str:
    """An item's own line stays bare; what is under it flows."""
    rest = _flow(lines[1:], nesting + 1) if len(lines) > 1 else ""
    return render_inline(lines[0].strip()) + rest


def _table(lines: list[str], index: int) -> tuple[int, str]:
    head = _cells(lines[index])
    index += 2
    rows: list[list[str]] = []
    while index < len(lines) and "|" in lines[index]:
        cells = _cells(lines[index])
        rows.append((cells + [""] * len(head))[: len(head)])
        index += 1
    html = "".join(f"<th>{render_inline(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{render_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return index, f"<table><thead><tr>{html}</tr></thead><tbody>{body}</tbody></table>"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")][:32]


def render_inline(text: str, nesting: int = 0) -> str:
    """Code, bold, italic, links inside a line; everything else is escaped."""
    html: list[str] = []
    plain: list[str] = []

    def end_plain() -> None:
        if plain:
            html.append(escape("".join(plain)))
            plain.clear()

    missing: set[str] = set()  # marks that do not occur again: searched for once, not at every place
    index = 0
    while index < len(text):
        mark = text[index]
        piece, end = None, index
        if mark == "\\" and index + 1 < len(text) and text[index + 1] in r"\`*_{}[]()#+-.!|>~":
            plain.append(text[index + 1])
            index += 2
            continue
        if mark == "`":
            piece, end = _code(text, index, missing)
        elif mark in "*_~" and nesting < _MAX_NESTING:
            piece, end = _emphasis(text, index, nesting, missing)
        elif mark in "[!" and nesting < _MAX_NESTING:
            piece, end = _link(text, index, nesting, missing)
        if piece is None:
            run = end - index if end > index else 1
            plain.append(text[index : index + run])
            index += run
        else:
            end_plain()
            html.append(piece)
            index = end
    end_plain()
    return "".join(html)


def _run(text: str, index: int) -> str:
    end = index
    while end < len(text) and text[end] == text[index]:
        end += 1
    return text[index:end]


def _find(text: str, what: str, start: int, missing: set[str]) -> int:
    if what in missing:
        return -1
    found = text.find(what, start)
    if found < 0:
        missing.add(what)
    return found


def _code(text: str, index: int, missing: set[str]) -> tuple[str | None, int]:
    ticks = _run(text, index)
    begin = index + len(ticks)
    close = _find(text, ticks, begin, missing)
    if close < 0:
        return None, begin
    return f"<code>{escape(text[begin:close].strip() or text[begin:close])}</code>", close + len(ticks)


def _emphasis(text: str, index: int, nesting: int, missing: set[str]) -> tuple[str | None, int]:
    run = _run(text, index)
    tag = {1: "em", 2: "strong"}.get(len(run))
    if run[0] == "~":
        tag = "del" if len(run) == 2 else None
    begin = index + len(run)
    inside_word = run[0] == "_" and index > 0 and text[index - 1].isalnum()
    if tag is None or inside_word or begin >= len(text) or text[begin].isspace():
        return None, begin
    close = _find(text, run, begin, missing)
    while (
        close > 0 and len(run) == 1 and _run(text, close) != run
    ):  # a ** inside of * belongs to the inner text
        inner_end = text.find(run * 2, close + 2)
        close = text.find(run, inner_end + 2) if inner_end > 0 else -1
    if close <= begin or text[close - 1].isspace():
        return None, begin
    if run[0] == "_" and close + len(run) < len(text) and text[close + len(run)].isalnum():
        return None, begin
    return f"<{tag}>{render_inline(text[begin:close], nesting + 1)}</{tag}>", close + len(run)


def _link(text: str, index: int, nesting: int, missing: set[str]) -> tuple[str | None, int]:
    is_image = text[index] == "!"
    begin = index + 2 if is_image else index + 1
    if is_image and text[index + 1 : index + 2] != "[":
        return None, index
    middle = _find(text, "](", begin, missing)
    close = _find(text, ")", middle, missing) if middle >= 0 else -1
    if close < 0:
        return None, index
    label, address = text[begin:middle], text[middle + 2 : close].strip().partition(" ")[0]
    if is_image:
        return f'<span class="no-image">{escape(label or "image")}</span>', close + 1
    content = render_inline(label, nesting + 1)
    if not _SAFE_LINK.match(address):
        return content, close + 1
    attributes = 'target="_blank" rel="noopener noreferrer nofollow"'
    return f'<a href="{escape(address)}" {attributes}>{content}</a>', close + 1
