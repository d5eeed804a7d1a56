"""Perplexity against transformers' own losses and lm-evaluation-harness' windows; texts and tokenizers."""

import json
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import make, plain_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from wncore.errors import InputError, NonFiniteError
from wncore_torch.model.evaluate import evaluate, token_losses
from wncore_torch.model.opening import open_folder
from wncore_torch.model.text import disjoint_windows, read_text, window_length
from wncore_torch.model.windows import predict_rolling, predict_windows

pytestmark = pytest.mark.usefixtures("one_thread")

LINES = [
    f"On day {i} the {'old' if i % 3 else 'new'} bridge was crossed {i * i} times – it's there." for i in range(12)
]
STORY = "\n".join(LINES) + "\n"


def write_tokenizer(path: Path, adds_bos: bool = True, bos: bool = True) -> None:
    """A tokenizer of one token a byte, of <pad> 0, <s> 1 and </s> 2; it begins a text with <s> if told to."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {letter: i + 3 for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    config |= {"bos_token": "<s>", "eos_token": "</s>"} if bos else {}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("llama") / "model", "llama", vocab_size=259)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plain(talker):
    return plain_model(talker)


@torch.no_grad()
def own_loss(model, ids):
    """transformers' own mean loss of a window, whose first token is not scored."""
    return model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids]), use_cache=False).loss.item()


def test_disjoint_windows_by_transformers_own_loss(talker, story, plain):
    text = read_text(talker, story)
    found = evaluate(open_folder(talker), text, length=24)
    tokens = text.tokens.tolist()
    assert len(tokens) == len(STORY.encode())  # one token a byte
    windows = [tokens[i : i + 24] for i in range(0, len(tokens) - 23, 24)]
    assert len(tokens) % 24  # some are left over
    wanted = sum(own_loss(plain, window) for window in windows) / len(windows)
    assert math.isclose(found.perplexity, math.exp(wanted), rel_tol=1e-5)
    assert math.isclose(found.bits_per_byte, wanted / math.log(2), rel_tol=1e-5)
    assert (found.tokens, found.windows, found.length) == (23 * len(windows), len(windows), 24)
    assert (found.bos, found.dtype, found.convention, found.word_perplexity) == (False, "float32", "windows", None)


def test_bos_as_the_tokenizer_adds_it(talker, story, plain):
    text = read_text(talker, story)
    found = evaluate(open_folder(talker), text, length=24, windows=2, bos="auto")
    tokens = [1, *text.tokens.tolist()]
    wanted = (own_loss(plain, tokens[:24]) + own_loss(plain, tokens[24:48])) / 2
    assert math.isclose(found.perplexity, math.exp(wanted), rel_tol=1e-5)
    assert (found.bos, found.windows, found.tokens) == (True, 2, 46)


def test_bos_in_every_window(talker, story, plain):
    text = read_text(talker, story)
    found = evaluate(open_folder(talker), text, length=24, windows=2, bos="yes")
    tokens = text.tokens.tolist()
    wanted = (own_loss(plain, [1, *tokens[:23]]) + own_loss(plain, [1, *tokens[23:46]])) / 2
    assert math.isclose(found.perplexity, math.exp(wanted), rel_tol=1e-5)
    assert (found.bos, found.tokens) == (True, 46)


def rolling(tokens, prefix, longest):
    """lm_eval.utils.get_rolling_token_windows of context_len=1, then make_disjoint_window: contexts, continuations."""
    first = min(longest, len(tokens))
    pairs = [([prefix, *tokens[: first - 1]], tokens[:first])]
    predicted = first
    while predicted < len(tokens):
        fresh = min(len(tokens) - predicted, longest)
        end = predicted + fresh
        pairs.append((tokens[end - longest - 1 : end - 1], tokens[end - fresh : end]))
        predicted += fresh
    return [(context[: len(context) - (len(rest) - 1)], rest) for context, rest in pairs]


@torch.no_grad()
def harness_sum(model, tokens, prefix, longest):
    """Sum of log-likelihoods as `_loglikelihood_tokens` takes them, window by window."""
    total = 0.0
    for context, continuation in rolling(tokens, prefix, longest):
        whole = (context + continuation)[-(longest + 1) :]
        logits = model(input_ids=torch.tensor([whole[:-1]]), use_cache=False).logits[0]
        chosen = logits.log_softmax(-1)[-len(continuation) :]
        total += chosen.gather(1, torch.tensor(continuation)[:, None]).double().sum().item()
    return total


@pytest.mark.parametrize("kept", [None, 48, 24, 25, 23, 1])
def test_the_harness_convention(talker, story, plain, tmp_path, kept):
    shorter = tmp_path / "text.txt"
    shorter.write_bytes(STORY.encode()[:kept] if kept else STORY.encode())
    text = read_text(talker, shorter)
    found = evaluate(open_folder(talker), text, length=24, convention="harness")
    total = harness_sum(plain, text.tokens.tolist(), 1, 24)
    content = shorter.read_text()
    assert found.tokens == len(text.tokens)
    assert math.isclose(found.perplexity, math.exp(-total / found.tokens), rel_tol=1e-4)
    assert math.isclose(found.bits_per_byte, -total / math.log(2) / len(content.encode()), rel_tol=1e-5)
    assert math.isclose(found.word_perplexity, math.exp(-total / len(re.split(r"\s+", content))), rel_tol=1e-3)
    assert found.document()["convention"] == "harness"


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 16, 17, 31])
def test_rolling_windows_by_the_definition(talker, story, tokens):
    text = read_text(talker, story)
    text = type(text)(text.tokens[:tokens], 100, 10, text.begin, text.end, text.adds_begin)
    asked = predict_rolling(text, 8, None, "no")
    wanted = rolling(text.tokens.tolist(), 1, 8)
    assert len(asked.ids) == len(wanted)
    for ids, targets, scored, (context, continuation) in zip(
        asked.ids.tolist(), asked.targets.tolist(), asked.scored, wanted, strict=True
    ):
        assert ids == (context + continuation)[:-1]
        assert [target for target, one in zip(targets, scored, strict=True) if one] == continuation


def test_a_few_rolling_windows_have_no_word_perplexity(talker, story):
    found = evaluate(open_folder(talker), read_text(talker, story), length=24, windows=2, convention="harness")
    assert (found.windows, found.tokens, found.word_perplexity) == (2, 48, None)


@pytest.mark.parametrize("family", ["gemma2", "opt", "gpt2", "mixtral", "falcon"])
def test_losses_of_families_are_transformers_own(tmp_path, story, family):
    """Soft caps, projections and tied heads come after the blocks."""
    path = make(tmp_path / "model", family, vocab_size=259)
    write_tokenizer(path)
    model, text = plain_model(path), read_text(path, story)
    found = evaluate(open_folder(path), text, length=24, windows=3, batch=2)
    wanted = sum(own_loss(model, row) for row in disjoint_windows(text.tokens, 24, 3).tolist()) / 3
    assert math.isclose(found.perplexity, math.exp(wanted), rel_tol=1e-3)


def test_pieces_of_the_head_change_nothing(talker, story, monkeypatch):
    from wncore_torch.model import evaluate as module

    folder, text = open_folder(talker), read_text(talker, story)
    asked = predict_windows(text, 24, 5, "no")
    whole = token_losses(folder, asked, batch=2)
    monkeypatch.setattr(module, "CELLS", 259 * 6)
    torch.testing.assert_close(token_losses(folder, asked, batch=3, place="cpu"), whole)


def test_nan_is_said(talker, story, tmp_path):
    from model_families import edit_tensors

    path = make(tmp_path / "model", "llama", vocab_size=259)
    edit_tensors(path, lambda old: old | {"lm_head.weight": old["lm_head.weight"] * math.nan})
    with pytest.raises(NonFiniteError, match="NaN for 46 of 46 tokens; run it in a wider type, with --dtype float32"):
        evaluate(open_folder(path), read_text(talker, story), length=24, windows=2)


def test_words_and_bytes_are_those_of_the_file(talker, tmp_path):
    for content in ("a b\n", " a  b", "word", "naïve – \n\n x\ty", "\n"):
        (tmp_path / "t.txt").write_text(content, encoding="utf-8")
        text = read_text(talker, tmp_path / "t.txt")
        assert (text.bytes, text.words) == (len(content.encode()), len(re.split(r"\s+", content)))
        assert text.adds_begin


def test_the_default_length():
    assert [window_length(None, limit) for limit in (None, 1024, 131_072)] == [2048, 1024, 2048]
    assert window_length(512, 1024) == 512
    with pytest.raises(InputError, match="at most 1024 tokens; got 2000, give fewer with --length"):
        window_length(2000, 1024)
    with pytest.raises(InputError, match="at least 2 tokens; got 1"):
        window_length(1, None)


def test_a_tokenizer_is_opened_once_for_all_texts_and_again_if_its_files_are_others(tmp_path, story, monkeypatch):
    path, found = make(tmp_path / "model", "llama", vocab_size=259), []
    write_tokenizer(path)
    (path / "gone.json").symlink_to(tmp_path / "nothing")  # a download that was cleared away
    load = AutoTokenizer.from_pretrained

    def opened(*args, **options):
        found.append(args)
        return load(*args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", opened)
    first, second = read_text(path, story), read_text(path, story)
    assert first.tokens.tolist() == second.tokens.tolist()
    assert len(found) == 1
    (path / "tokenizer.json").write_text((path / "tokenizer.json").read_text() + " ")
    read_text(path, story)
    assert len(found) == 2


def test_what_cannot_be_read_is_refused(talker, tmp_path, story):
    text = tmp_path / "t.txt"
    with pytest.raises(InputError, match=r"t\.txt cannot be read: No such file or directory; name a text file"):
        read_text(talker, text)
    text.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="no UTF-8 text: invalid start byte at byte 3; convert it"):
        read_text(talker, text)
    text.write_text("")
    with pytest.raises(InputError, match="holds no text; name a file that does"):
        read_text(talker, text)
    text.write_text("short")
    with pytest.raises(InputError, match="5 tokens and a window 24; give a longer --text or a smaller --length"):
        evaluate(open_folder(talker), read_text(talker, text), length=24)
    with pytest.raises(InputError, match="at least one window is needed; got 0"):
        disjoint_windows(torch.arange(10), 5, 0)
    bare = make(tmp_path / "bare", "llama")
    with pytest.raises(InputError, match=r"has no tokenizer, there is config\.json, .*; add the tokenizer's files"):
        read_text(bare, story)
    (bare / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be opened: .*; add its tokenizer"):
        read_text(bare, story)


def test_options_that_do_not_exist(talker, story):
    folder, text = open_folder(talker), read_text(talker, story)
    with pytest.raises(InputError, match="a convention is windows or harness; got 'gptq'"):
        evaluate(folder, text, convention="gptq")
    with pytest.raises(InputError, match="bos is auto, yes, no; got 'maybe'"):
        evaluate(folder, text, bos="maybe")


def test_a_tokenizer_without_a_first_token(tmp_path, story):
    path = make(tmp_path / "model", "llama", vocab_size=259)
    write_tokenizer(path, adds_bos=False, bos=False)
    folder, text = open_folder(path), read_text(path, story)
    assert not text.adds_begin
    assert not evaluate(folder, text, length=24, windows=1, bos="auto").bos
    with pytest.raises(InputError, match="no token that begins a text; leave --bos yes out"):
        evaluate(folder, text, length=24, bos="yes")
    with pytest.raises(InputError, match="no token that begins or ends a text"):
        evaluate(folder, text, length=24, convention="harness")
