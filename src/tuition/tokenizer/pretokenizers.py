"""Where byte-level BPE cuts a text into words, by the name under which GGUF files keep it.

In: `tokenizer.ggml.pre` and the architecture.  Out: `PreTokenizer`: patterns that are applied one after the
other, each match and each gap is one piece.
Source: llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_bpe` and `llama_vocab::impl::load`. Where that file
names the pattern of the model's own tokenizer.json, it stands here in place of llama.cpp's adaptation.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str, digits: str) -> str:
    """Words cut where the case changes."""
    start = r"[^\r\n\p{L}\p{N}]?"
    return f"{start}{_UPPER}*{_LOWER}+{ending}|{start}{_UPPER}+{_LOWER}*{ending}|{digits}|{_REST_SLASH}"


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = rf"{_ENDINGS}|{_WORD}|\p{{N}}|{_REST}"
LLAMA3 = rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_TEKKEN = _cased("", r"\p{N}")
_GPT4O = _cased(f"{_ENDINGS}?", r"\p{N}{1,3}")
_SPACES = "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
_JAIS2 = (
    rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+{_SPACES}|\s{{1,2}}(?!\S)|\s"
)
_SIGN_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3 = _SIGN_WORD + r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_EAST_ASIAN = "[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK_LETTERS = (
    r"\s?["
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ"
    r"Ḁ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻ"
    r"Ȿ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
    r"]+"
)
_FINNISH = " ?[^(\\s|.,!?…。，、।۔،)]+"


@dataclass(frozen=True)
class PreTokenizer:
    """One row: how a text is cut, and what goes with it."""

    patterns: tuple[str, ...]
    adds_bos: bool = False
    """What llama.cpp does where the file does not say."""
    ignores_merges: bool = False
    """A word that is a token is that token, whatever the merges make of it."""

    def build(self) -> pre_tokenizers.PreTokenizer:
        """As a step of the tokenizers library."""
        own = self.patterns[-1] == GPT2  # the library's byte level has this pattern built in
        patterns = self.patterns[:-1] if own else self.patterns
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated", invert=False) for pattern in patterns]
        return pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)]
        )


def _rows(
    names: str, *patterns: str, adds_bos: bool = False, ignores_merges: bool = False
) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), PreTokenizer(patterns, adds_bos, ignores_merges))


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_rows("default", r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    **_rows("gpt-2 gpt2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
            "jina-v1-en jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling exaone4", GPT2),
    **_rows("smollm starcoder refact command-r codeshell exaone mellum2 minerva-7b", r"\p{N}", GPT2),
    **_rows("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", LLAMA3,
            adds_bos=True, ignores_merges=True),
    **_rows("dbrx smaug-bpe chatglm-bpe", LLAMA3),
    **_rows("glm4 glm5", LLAMA3, ignores_merges=True),
    **_rows("minicpm5", r"\p{N}{1,3}", rf"{_ENDINGS}|{_WORD}|\p{{N}}+|{_REST}", ignores_merges=True),
    **_rows("jais-2", _JAIS2),
    **_rows("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", QWEN2),
    **_rows("qwen35", rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
    **_rows("ufakzeka", rf"{_WORD}|\p{{N}}|{_REST}"),
    **_rows("laguna", r"[^\n]+|[\n]+", QWEN2),
    **_rows("seed-coder", rf"{_ENDINGS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"),
    **_rows("bailingmoe bailingmoe2 llada-moe", r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"),
    **_rows("exaone-moe", rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"),
    **_rows("tekken", _TEKKEN, adds_bos=True, ignores_merges=True),
    **_rows("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O),
    **_rows("granite-embed-multi-97m", _GPT4O, ignores_merges=True),
    **_rows("tiny_aya cohere2moe", r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O),
    **_rows("youtu", "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _EAST_ASIAN,
            _cased(f"{_ENDINGS}?", r"\p{N}"), ignores_merges=True),
    **_rows("deepseek-llm", r"[\r\n]", _DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
            "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"),
    **_rows("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    **_rows("deepseek-v3 hunyuan-dense joyai-llm hy_v4", r"\p{N}{1,3}", _EAST_ASIAN, _DEEPSEEK3),
    **_rows("spark2_5", r"\p{N}{1,3}", _EAST_ASIAN,
            _SIGN_WORD + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"),
    **_rows("falcon", r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    **_rows("poro-chat bloom gpt3-finnish", _FINNISH),
    **_rows("viking", _FINNISH, r"\p{N}"),
    **_rows("chameleon", "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )",
            r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2, adds_bos=True),
    **_rows("superbpe", r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
}  # fmt: skip

ARCHITECTURE_DEFAULTS = {"qwen2": "qwen2", "qwen3": "qwen2"}
"""The pre-tokenizer of a file that names none: all models of the architecture have this one. For others
llama.cpp takes `default`, and so does this program."""
