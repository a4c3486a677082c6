"""What jinja2 renders and minijinja refuses is rendered as transformers renders it."""

import pytest

from tuition.core.errors import ModelError, RequestError
from tuition.tokenizer.chat import ChatTemplate
from tuition.tokenizer.template_source import as_minijinja

HI = [{"role": "user", "content": "hi"}]
ABSENT = (
    "{% if tools is iterable and tools|length > 0 %}tools{% endif %}",
    "{{ nope|length }} {{ nope | count }} {{ messages[0].nope|length }} {{ nope|first }} {{ nope|last }}",
    "{% for k, v in nope|items %}{{ k }}{% endfor %} {% if nope is iterable %}i{% endif %}",
    "{% if not tools is iterable %}n{% endif %} {{ nope is not iterable }} {{ none is iterable }}",
    "{{ 'x' is iterable }} {{ 5 is iterable }} {{ {} is iterable }} {{ 'x' is sequence }}",
    "{{ none is sequence }} {{ [] is sequence }} {{ nope is sequence }} {{ [1, 2]|first }} {{ [1, 2]|last }}",
    r"""{{ "a|length %} is iterable" }} {{ 'it\'s|first' }} {{ '|count'|length }} |length is iterable""",
    r"{{ 'a\n'|indent(4, first=true) }}| {{ 'a\n\nb'|indent(2) }} {{ 'a\n\nb\n'|indent(2, true, true) }}",
    "{{ 'abc'|length }} {{ []|first }} {{ '{'|length }} {{ ({'a': 1}|items|list)[0][0] }}",
)
"""What templates ask of values that are not there, and texts that only read like it."""


@pytest.mark.parametrize("source", ABSENT)
def test_absent_values_have_the_length_and_ends_that_jinja2_gives_them(source: str) -> None:
    chat_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (expected,), _ = chat_utils.render_jinja_template([HI], chat_template=source)
    assert ChatTemplate(source).render(HI) == expected


PYTHON = (
    "{{ 'a b c'.rsplit(' ', 1)[0] }}|{{ messages[0].content.rsplit('i')[-1] }}|{{ 'a-b'.rsplit('-')|last }}",
    "{{ 'x' ~ messages[0]['content'].rsplit('i', maxsplit=1)[0].upper() }}|{{ ('a' + 'b c').rsplit()[0] }}",
    "{{ 'a b'.rsplit(' ')[0].rsplit('a')[0].partition('x')[2] == '' }}|{{ ' k=v '.strip().partition('=') }}",
    "{% if not 'a:b'.removeprefix('a:').removesuffix('b') %}empty{% endif %}|{{ 'abc'.index('c') + 1 }}",
    "{% for part in messages[0].content.rsplit('i') %}[{{ part }}]{% endfor %}|{{ ['a', 'b'].index('b') }}",
    "{{ '7'.zfill(3) }}|{{ 'a'.center(5) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3) }}|{{ 'aB'.swapcase() }}",
    "{% set f = namespace(x='a b') %}{{ f.x.rsplit(' ')[1] }}|{{ (f.x | upper).rsplit(' ')[0] }}",
    "{{ 'x'.join(['a', 'b']).rsplit('x')[1] }}|{{ {'k': 'a.b'}['k'].rsplit('.')[1] }}|{{ 'ß'.casefold() }}",
    "{{ '%.2f' % 3.14159 }}|{{ '%d%%' % 5 }}|{{ '%s and %s' % ('a', 1) }}|{{ '%s' % [1, 2] }}",
    "{{ '%05d' % messages|length }}|{{ 'a' ~ '%s' % messages[0].content.upper() ~ 'b' }}|{{ '%s' % (1) }}",
    "{{ '%(k)s' % {'k': 'v'} }}|{{ 7 % 4 }}|{% set n = 9 %}{{ n % 5 }}|{{ '%s' % 'x'.rsplit('y')[0] }}",
    "{{ '%s' % true }}|{{ '%r' % 'a' }}|{{ \"%s\" % none }}|{{ '%s'%-1 }}|{{ '%x' % 255 }}",
    "{# {{ 'a'.rsplit( }} #}{% raw %}{{ 'a'.rsplit('b') }}{% endraw %}",
    "{{ \".rsplit(')' % x\" }}|{{ {'a': {}} }}",
    "{{ 'a b'.split(' ', 1)[1] }}|{{ 'a b'.split()[0] }}|{{ '{} {}'.format('a', 1) }}",
)  # fmt: skip
"""Methods and operators of Python's strings, in the places where templates write them."""


@pytest.mark.parametrize("source", PYTHON)
def test_pythons_strings_do_what_they_do_in_jinja2(source: str) -> None:
    chat_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (expected,), _ = chat_utils.render_jinja_template([HI], chat_template=source)
    assert ChatTemplate(source).render(HI) == expected


@pytest.mark.parametrize("source", ["{{ messages.rsplit() }}", "{{ 5.0.index(1) }}", "{{ '%d' % 'x' }}",
                                    "{{ '%s %s' % 'x' }}", "{{ ''.index.__self__ }}"])  # fmt: skip
def test_what_python_refuses_is_refused(source: str) -> None:
    with pytest.raises((RequestError, ModelError)):
        ChatTemplate(source).render(HI)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' }",
        "{{ ('a' }}",
        "{% if x",
        "{# a",
        "{% raw %}{{ x",
        "{{ 'a }}",
        "text only",
        "",
        "{{ }}",
        "{% %}",
    ],
)
def test_what_does_not_end_is_left_as_it_is(source: str) -> None:
    """For minijinja to report, with its own place."""
    assert as_minijinja(source) == source
