"""hf_tokenizers.py FOLDER TEXT...: how fast Hugging Face's tokenizers encode texts, one thread.

For each text one line on stdout: processor seconds of the best of three runs, and how many ids
there are. The tokenizer is new for each run, so that its cache of words is as empty as ours. Run
by tokenizers.lua.
"""
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402

RUNS = 3


def main():
    path = sys.argv[1] + "/tokenizer.json"
    for name in sys.argv[2:]:
        with open(name, encoding="utf-8", newline="") as file:
            text = file.read()
        best = None
        for _ in range(RUNS):
            tokenizer = Tokenizer.from_file(path)
            tokenizer.encode_special_tokens = True      # they are plain text, as for us
            start = time.process_time()
            count = len(tokenizer.encode(text, add_special_tokens=False))
            seconds = time.process_time() - start
            best = min(best or seconds, seconds)
        print(best, count, flush=True)


main()
