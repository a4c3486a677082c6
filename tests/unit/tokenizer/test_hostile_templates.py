"""A template is a program that came with a model: one that would do harm is refused and costs nothing."""

import psutil
import pytest

from tuition.core.errors import ModelError, RequestError
from tuition.tokenizer.chat import ChatTemplate
from tuition.tokenizer.template_process import TemplateLimits

HI = [{"role": "user", "content": "hi"}]


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


HOSTILE = {
    "loops": "{% for i in range(10000) %}{% for j in range(10000) %}{{ i }}{% endfor %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "doubling": "{% set ns = namespace(x='x'*1000) %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}",
    "doubled lists": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}{{ ns.x | list | length }}",
    "repeat": "{{ 'x' * 1000000000 }}",
    "repeat length": "{{ ('x' * 4000000000) | length }}",
    "indent": "{{ 'a' | indent(1000000000, true) }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "range": "{{ range(1000000000) | list }}",
    "replace": "{{ ('x' * 100000).replace('x', 'x' * 100000) }}",
    "join": "{{ ('y' * 100000).join(range(90000) | map('string')) }}",
    "output": "{% set x = 'x' * 20000 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
    "big output": "{{ 'x' * 3000000 }}",
    "sorts": "{% for i in range(5000) %}{{ range(90000) | map('string') | sort | length }}{% endfor %}",
    "nested filters": "{{ range(99999)|map('string')|join(',')|list|sort|join(',')|list|sort|length }}" * 40,
    "deep source": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "gadget class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "gadget globals": "{{ raise_exception.__globals__['sys'].modules }}",
    "gadget init": "{{ messages.__init__.__globals__ }}",
    "import": "{% import 'os' as os %}{{ os.system('true') }}",
    "include": "{% include '/etc/passwd' %}",
    "open": "{{ open('/etc/passwd').read() }}",
    "format gadget": "{{ '{0.__class__}'.format(messages).foo.bar }}",
    "strftime": "{{ strftime_now('%Y' * 1000000) }}",
    "tojson bomb": "{% set ns = namespace(x=['x']) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% endfor %}{{ ns.x | tojson }}",
    "python strings": "{{ 'x'.ljust(4000000000) | length }}",
    "python percent": "{{ '%04000000000d' % 1 }}",
    "python methods": "{% set x = 'ab' * 1000 %}{{ range(90000) | list }}{% for i in range(90000) %}"
    "{% set y = x.rsplit('a') %}{% endfor %}",
    "python gadget": "{{ '%s' % messages.__class__ }}{{ ''.index.__self__.__class__.__base__ }}",
    "tojson indent": "{{ {'a': [[[[1]]]]} | tojson(indent=100000000) }}",
}  # fmt: skip


def processor_s() -> float:
    """Of this process and of those that it has started."""
    this = psutil.Process()
    times = [this.cpu_times(), *(child.cpu_times() for child in this.children())]
    return sum(sum(one[:2]) for one in times) + sum(times[0][2:4])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_and_costs_this_process_nothing(name: str) -> None:
    """The processor limit is a tenth of a second; the bound here allows for two processes to start."""
    template = ChatTemplate(HOSTILE[name])
    before = psutil.Process().memory_info().rss
    begin = processor_s()
    with pytest.raises((RequestError, ModelError)):
        template.render(HI)
    assert processor_s() - begin < 3
    assert psutil.Process().memory_info().rss - before < 32 * 2**20


def test_after_a_refusal_the_next_conversation_is_rendered() -> None:
    bomb = "{{ (messages[0].content * 20000000) | length }}"
    source = "{% if messages[0].content == 'bomb' %}" + bomb + "{% else %}fine{% endif %}"
    template = ChatTemplate(source)
    with pytest.raises(RequestError, match="memory"):
        template.render(user("bomb"))
    assert template.render(HI) == "fine"


def test_without_the_limits_the_same_template_would_run() -> None:
    """The control: it is the limits that refuse, not something else in the template."""
    source = "{{ (messages[0].content * 50000000) | length }}"
    assert ChatTemplate(source, limits=TemplateLimits(cpu_s=10, growth_bytes=2**29)).render(HI) == "100000000"
    with pytest.raises(RequestError, match="memory"):
        ChatTemplate(source, limits=TemplateLimits(cpu_s=10)).render(HI)
    slow = "{% for i in range(400) %}{{ range(90000) | map('string') | sort | length }}{% endfor %}"
    with pytest.raises(RequestError, match="time"):
        ChatTemplate(slow, limits=TemplateLimits(growth_bytes=2**30)).render(HI)
