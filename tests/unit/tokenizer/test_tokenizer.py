"""Text to ids and back, for every family."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from tuition.core.errors import ModelError, RequestError, SettingsError
from tuition.tokenizer.folder import FolderSettings, read_folder_settings
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
UNKNOWN = ("<unk>", "[UNK]")
"""Stand for characters without a token: any text may hold them, and they steer nothing."""
FEW = settings(max_examples=60, deadline=None)


def stream_text(tokenizer: Tokenizer, ids: list[int], skip_specials: bool = True) -> list[str]:
    decoder = tokenizer.stream(skip_specials)
    return [*(decoder.push(token_id) for token_id in ids), decoder.finish()]


@FEW
@given(data=st.data(), skip=st.booleans())
def test_a_stream_joined_is_what_decode_returns_for_any_ids(
    families: dict[str, Tokenizer], data, skip: bool
) -> None:
    for tokenizer in families.values():
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
        assert "".join(stream_text(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)


@FEW
@given(text=TEXTS)
def test_byte_level_bpe_gives_every_text_back(families: dict[str, Tokenizer], text: str) -> None:
    tokenizer = families["bpe"]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(text)) == text.encode()


@FEW
@given(text=TEXTS)
def test_decoding_agrees_with_the_library(families: dict[str, Tokenizer], text: str) -> None:
    """On ids that encode a text: there the library's way with broken bytes does not matter."""
    for tokenizer in families.values():
        ids = tokenizer.encode(text, add_bos=False)
        theirs = tokenizers.Tokenizer.from_str(tokenizer.to_json())
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@FEW
@given(data=st.data())
def test_no_text_becomes_a_special_token(families: dict[str, Tokenizer], data) -> None:
    for tokenizer in families.values():
        specials = list(tokenizer.special_tokens)
        text = "".join(data.draw(st.lists(st.sampled_from([*specials, "<", ">", "the ", "</"]), max_size=8)))
        unknown = {tokenizer.token_id(token) for token in UNKNOWN}
        control = tokenizer.special_ids - unknown
        assert control.isdisjoint(tokenizer.encode(text, add_bos=False))
        assert all(control.isdisjoint(ids) for ids in tokenizer.encode_batch([text, text], add_bos=False))


@pytest.mark.parametrize("text", ["the § hen", "§", "§§ the", "no\u2603", "the hen"])
def test_characters_without_a_token_are_unknown_as_the_library_reads_them(
    families: dict[str, Tokenizer], text: str
) -> None:
    """A special unknown token is still what they become: they are not dropped, nor is the text cut there."""
    for tokenizer in families.values():
        theirs = tokenizers.Tokenizer.from_str(tokenizer.to_json())
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_bos=False) == expected
        assert tokenizer.encode_batch([text], add_bos=False) == [expected]


def test_an_end_of_text_that_stands_for_the_unknown_is_never_written() -> None:
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": 0, "the": 1}, unk_token="<end>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    core.add_special_tokens(["<end>"])
    tokenizer = Tokenizer(core, FolderSettings(eos_token="<end>"))
    assert 0 not in tokenizer.encode("the § the", add_bos=False)


def test_a_long_text_leaves_room_for_other_threads(trained: Tokenizer) -> None:
    """One that waits for a millisecond at a time wakes again and again meanwhile."""
    text = "to be or not to be, " * 100_000
    with ThreadPoolExecutor(1) as pool:
        encoding = pool.submit(trained.encode, text)
        wakes = 0
        while not encoding.done():
            time.sleep(0.001)
            wakes += 1
    assert len(encoding.result()) > 100_000
    assert wakes > 10


def test_special_tokens_are_parsed_only_when_asked(trained: Tokenizer) -> None:
    text = "<|im_start|>hi"
    assert trained.encode(text, "parse")[0] == trained.token_id("<|im_start|>")
    assert trained.decode(trained.encode(text)) == text


def test_a_stream_never_shows_half_a_character(trained: Tokenizer) -> None:
    text = "a👩‍👩‍👧é日本🏳️‍🌈z"
    parts = stream_text(trained, trained.encode(text))
    assert "".join(parts) == text
    assert not any("�" in part for part in parts)
    assert len(trained.encode(text)) > len(text), (
        "characters must be spread over tokens for this to test anything"
    )


def test_an_unfinished_character_at_the_end_reads_as_one_replacement(trained: Tokenizer) -> None:
    ids = trained.encode("👧")[:-1]
    assert stream_text(trained, ids)[:-1] == [""] * len(ids)
    assert trained.decode(ids) == "�"


def test_special_tokens_are_left_out_unless_wanted(trained: Tokenizer) -> None:
    ids = [trained.eos_ids[0], *trained.encode("hi")]
    assert trained.decode(ids) == "hi"
    assert trained.decode(ids, skip_specials=False) == "<|endoftext|>hi"


def test_sentencepiece_drops_only_the_space_it_added(families: dict[str, Tokenizer]) -> None:
    tokenizer = families["llama"]
    assert tokenizer.decode(tokenizer.encode("the the")) == "the the"
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"
    assert tokenizer.encode("the")[0] == tokenizer.bos_id
    assert tokenizer.decode(tokenizer.encode("ü👧")) == "ü👧"


def test_beginnings_come_from_the_post_processor_when_nothing_declares_them(
    families: dict[str, Tokenizer],
) -> None:
    assert families["wordpiece"].add_bos
    assert not families["bpe"].add_bos


def test_a_batch_encodes_as_its_texts_do(family: Tokenizer) -> None:
    texts = ["the one", "", "</s> the", "then."]
    assert family.encode_batch(texts) == [family.encode(text) for text in texts]


def test_half_a_surrogate_pair_is_refused_by_name(trained: Tokenizer) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        trained.encode("\ud83d")
    with pytest.raises(RequestError, match="surrogate"):
        trained.encode_batch(["fine", "\ud83d"])


def test_two_texts_in_place_of_one_are_refused(trained: Tokenizer) -> None:
    with pytest.raises(RequestError, match="must be a text, got a list"):
        trained.encode(("one", "two"))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="must be a text, got a list"):
        trained.encode_batch([("one", "two")])  # type: ignore[list-item]


def test_saved_and_loaded_again_it_is_the_same(model_folder: Path, trained: Tokenizer) -> None:
    again = Tokenizer.load(model_folder)
    assert again.digest == trained.digest
    assert (again.bos_id, again.add_bos) == (0, False)
    assert again.eos_ids == (2, 0, 3), "what generation_config.json says comes first"
    assert again.chat is not None
    assert again.chat.source == trained.chat.source


def test_saving_keeps_a_generation_config_that_is_there(model_folder: Path) -> None:
    before = (model_folder / "generation_config.json").read_text()
    Tokenizer.load(model_folder).save(model_folder)
    assert (model_folder / "generation_config.json").read_text() == before


@pytest.mark.parametrize(
    ("config", "jinja", "expected"),
    [
        ({"chat_template": "one"}, None, "one"),
        (
            {
                "chat_template": [
                    {"name": "tool_use", "template": "no"},
                    {"name": "default", "template": "two"},
                ]
            },
            None,
            "two",
        ),
        ({"chat_template": "one"}, "three", "three"),
        ({}, None, None),
    ],
)
def test_chat_templates_are_found_in_every_place(
    tmp_path: Path, config: dict, jinja: str | None, expected
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if jinja is not None:
        (tmp_path / "chat_template.jinja").write_text(jinja)
    assert read_folder_settings(tmp_path).chat_template == expected


def test_tokens_may_be_written_as_objects(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7, "bos_token_id": None}))
    found = read_folder_settings(tmp_path)
    assert (found.bos_token, found.eos_token, found.eos_ids, found.add_bos) == ("<s>", "</s>", (7,), True)


def test_a_null_bos_token_means_none_even_if_the_model_config_has_an_id(
    tmp_path: Path, trained: Tokenizer
) -> None:
    trained.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "bos_token": None, "add_bos_token": False})
    )
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 0}))
    assert Tokenizer.load(tmp_path).bos_id is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"model": {}}', '{"version":"1.0","model":{"type":"Nope"}}', "\0"]
)
def test_a_broken_tokenizer_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_an_unknown_decoder_is_refused_rather_than_guessed(trained: Tokenizer) -> None:
    state = json.loads(trained.to_json())
    state["decoder"] = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
    with pytest.raises(ModelError, match="CTC"):
        Tokenizer.from_json(json.dumps(state))


def test_truncation_and_padding_of_the_file_do_not_change_encoding(trained: Tokenizer) -> None:
    state = json.loads(trained.to_json())
    state["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert Tokenizer.from_json(json.dumps(state)).encode("to be or not to be") == trained.encode(
        "to be or not to be"
    )


def test_training_is_repeatable_and_respects_its_size() -> None:
    texts = ["to be or not to be", "the question"] * 5
    one, two = train_bpe(texts, 280), train_bpe(iter(texts), 280)
    assert one.digest == two.digest
    assert one.vocab_size <= 280
    assert one.eos_ids == (0,)
    assert one.encode("to be") != list(b"to be"), "merges were learnt"


def test_a_vocabulary_too_small_for_bytes_is_refused_with_both_numbers() -> None:
    with pytest.raises(SettingsError, match=r"256.*257"):
        train_bpe(["a"], 256)


def test_transformers_opens_what_we_save(model_folder: Path, trained: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(model_folder))
    text = "Whether 'tis nobler 1234 👧\n\n"
    assert theirs(text).input_ids == trained.encode(text)
    messages = [{"role": "user", "content": "to be?"}]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    assert list(rendered["input_ids"]) == trained.render_chat(messages)


@FEW
@given(data=st.data(), skip=st.booleans())
def test_a_continuation_reads_as_the_end_of_the_whole(
    families: dict[str, Tokenizer], data, skip: bool
) -> None:
    """Also where the first part ends inside a character, or holds nothing that is shown."""
    for tokenizer in families.values():
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
        cut = data.draw(st.integers(0, len(ids)))
        before, after = tokenizer.stream(skip), tokenizer.stream(skip, after=ids[:cut])
        text = before.push_all(ids[:cut]) + after.push_all(ids[cut:]) + after.finish()
        assert text == tokenizer.decode(ids, skip)


@FEW
@given(data=st.data())
def test_what_a_token_would_add_is_what_it_adds(families: dict[str, Tokenizer], data) -> None:
    for tokenizer in families.values():
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=20))
        decoder, parts = tokenizer.stream(skip_specials=False), []
        for token_id in ids:
            parts.append(decoder.would_add(token_id))
            decoder.push(token_id)
        assert b"".join(parts).decode("utf-8", "replace") == tokenizer.decode(ids, skip_specials=False)


@pytest.mark.parametrize("name", ["llama", "unigram"])
def test_a_word_after_a_prompt_keeps_its_space(families: dict[str, Tokenizer], name: str) -> None:
    tokenizer = families[name]
    the = tokenizer.token_id("▁the")
    prompt = tokenizer.encode("then")
    assert tokenizer.stream(after=prompt).push(the) == " the"
    assert tokenizer.stream(after=prompt[:0]).push(the) == "the"
    assert tokenizer.stream(after=tokenizer.eos_ids).push(the) == "the", "nothing is shown before it"


DECODERS = {
    "sequence": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "metaspace": decoders.Metaspace(prepend_scheme="always"),
    "byte level": decoders.ByteLevel(),
    "wordpiece": decoders.WordPiece(),
    "ends of words": decoders.BPEDecoder(),
    "none": None,
}


@FEW
@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
def test_added_tokens_pass_through_the_decoder_as_in_the_library(name: str, data) -> None:
    """Also those that are special, and the last token, after which BPEDecoder writes no space."""
    words = ["a", "▁a", "u", "##b", "a</w>", "<0x0A>", "Ġa", "</w>"]
    core = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="u"))
    core.add_tokens(["▁▁", "Ġx", "##c", "x</w>", "plain", "<｜x｜>"])
    core.add_special_tokens(["<0x41>", "[S]"])
    if DECODERS[name] is not None:
        core.decoder = DECODERS[name]
    theirs = tokenizers.Tokenizer.from_str(core.to_str())
    ids = data.draw(st.lists(st.integers(0, core.get_vocab_size() - 1), max_size=6))
    tokenizer = Tokenizer(core, FolderSettings())
    for skip in (False, True):
        assert tokenizer.decode(ids, skip_specials=skip) == theirs.decode(ids, skip_special_tokens=skip)
    cut = data.draw(st.integers(0, len(ids)))
    before = tokenizer.decode(ids[:cut])
    rest = tokenizer.stream(after=ids[:cut])
    assert before + rest.push_all(ids[cut:]) + rest.finish() == tokenizer.decode(ids)
