-- corpora_spec.lua: texts that are not there, hold nothing, or are no texts.
local models = require("spec.models")
local support = require("spec.messages.support")
local fixtures = require("spec.messages.fixtures")

fixtures.texts()
fixtures.checkpoints()

local corpus = models.corpus()

function support.add(env) env.corpus = corpus end

describe("messages about corpora", function()
  support.rows {
    { [[moe.data.corpus {}]],
      "moe.data.corpus: option 'path' is missing: string or table expected" },
    { [[moe.data.corpus("text.txt")]],
      "moe.data.corpus: options are not a table: table expected, got \"text.txt\"" },
    { [[return moe.data.corpus { path = DIR .. "/none" }]],
      "[missing] corpus: no such file or folder: DIR/none" },
    { [[return moe.data.corpus { path = DIR .. "/folder", match = "%.zig$" }]],
      "[missing] corpus: no file name matches \"%.zig$\": DIR/folder holds 1 file" },
    { [[local y = moe.data.corpus { path = DIR .. "/folder", match = "%" }]],
      "corpus: match is no Lua pattern: \"%\"" },
    { [[return moe.data.corpus { path = DIR .. "/hollow" }]],
      "[missing] corpus: the folder holds no files: DIR/hollow" },
    { [[return moe.data.corpus { path = DIR .. "/empty.txt" }]],
      "[format] corpus: there is no text: 1 files hold none, the first is DIR/empty.txt" },
    { [[return moe.data.corpus { path = "/dev/null" }]],
      "[io] corpus: neither file nor folder but a char device: /dev/null" },
    { [[local y = moe.data.corpus { path = {} }]],
      "corpus: path is an empty list" },
    { [[local y = moe.data.corpus { path = DIR .. "/text.txt", tokenizer = "gpt2" }]],
      "moe.data.corpus: there is no tokenizer \"gpt2\"\n" ..
      "hint: \"bytes\", the path of one, or what moe.tokenizer.open returned" },
    { [[local y = moe.data.corpus { path = DIR .. "/text.txt", max_bytes = 0 }]],
      "moe.data.corpus: max_bytes must be positive: 0" },
    { [[local y = moe.data.corpus { path = DIR .. "/text.txt", macth = "%.c$" }]],
      "moe.data.corpus: unknown option 'macth'\n" ..
      "hint: did you mean 'match'?" },
    { [[return moe.data.corpus { path = DIR .. "/text.txt", cache = DIR .. "/text.txt" }]],
      "[format] corpus: DIR/text.txt: header too large: 8007454152675191148 bytes " ..
      "(HeaderTooLarge)\n" ..
      "hint: it would be overwritten: remove it, or choose another cache" },
    { [[return moe.data.corpus { path = DIR .. "/broken.gz" }]],
      "[format] corpus: read_gzip: DIR/broken.gz: invalid block type" },
    { [[return moe.data.open(DIR .. "/none")]],
      "[missing] corpus: cannot open DIR/none: No such file or directory" },
    { [[return moe.data.open(DIR .. "/text.txt")]],
      "[format] corpus: DIR/text.txt: header too large: 8007454152675191148 bytes " ..
      "(HeaderTooLarge)" },
    { [[return moe.data.open(DIR .. "/weights.safetensors")]],
      "[format] corpus: DIR/weights.safetensors is no token file: it has no tensor \"ids\"" },
    { [[return corpus:check(5000)]],
      "[format] corpus \"prose\": split \"test\" has 500 tokens: a context of 5000 needs " ..
      "5001\n" ..
      "hint: give the corpus more text, or use a shorter context" },
    { [[local y = corpus:batch { batch = 2, context = 100000 }]],
      "batch: split \"train\" has 6000 tokens: a context of 100000 needs 100001\n" ..
      "hint: give the corpus more text, or use a shorter context" },
    { [[local y = corpus:batch { batch = 2, contxt = 8 }]],
      "batch: unknown option 'contxt'\n" ..
      "hint: did you mean 'context'?" },
    { [[local y = corpus:tokens("trian")]],
      "tokens: there is no split \"trian\"\n" ..
      "hint: train, validation and test exist" },
    { [[local y = corpus:windows("test", 0)]],
      "windows: context must be a whole number from 1 on: got 0" },
    { [[local y = corpus.tokens("train")]],
      "tokens: a corpus is expected, not \"train\"\n" ..
      "hint: call it as corpus:tokens(...)" },
    { [[local y = moe.data.text(3, "train", 5)]],
      "data.text: a corpus is expected, not 3" },
    { [[return moe.data.package_files("no-such-package-here", "%.h$")]],
      "[missing] package_files: the package is not installed: no-such-package-here\n" ..
      "hint: apt-get install no-such-package-here" },
    { [[local y = moe.data.package_files("rm -rf", "%.h$")]],
      "package_files: no name of a package: rm -rf" },
  }
end)
