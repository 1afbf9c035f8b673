-- files_spec.lua: model folders, checkpoints, tokenizers: missing, damaged, something else.
local moe = require("moelua")
local support = require("spec.messages.support")
local fixtures = require("spec.messages.fixtures")

fixtures.texts()
fixtures.checkpoints()
fixtures.models()

function support.add(env)
  env.file = assert(moe.checkpoint.open(env.DIR .. "/weights.safetensors"))
end

describe("messages about files", function()
  support.rows {
    { [[local y = moe.load()]],
      "load: folder must be the path of a model, not nil" },
    { [[return moe.load("gpt2")]],
      "[missing] load: gpt2 is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected" },
    { [[return moe.load(DIR .. "/weights.safetensors")]],
      "[format] load: DIR/weights.safetensors has tensors, but no config.json\n" ..
      "hint: give the folder that it is in" },
    { [[return moe.load(DIR .. "/folder")]],
      "[missing] load: DIR/folder is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected" },
    { [[return moe.load(DIR .. "/badjson")]],
      "[format] DIR/badjson/config.json: decode: line 3, column 17: premature end of input " ..
      "near '\"LlamaForCaus'" },
    { [[return moe.load(DIR .. "/nokind")]],
      "[format] DIR/nokind: config.json: 'model_type' is missing" },
    { [[return moe.load(DIR .. "/notobject")]],
      "[format] DIR/notobject: config.json: no JSON object" },
    { [[return moe.load(DIR .. "/bert")]],
      "[unsupported] DIR/bert: config.json: model_type 'bert' is not supported\n" ..
      "hint: deepseek, llama, mistral, mixtral, moelua, olmoe, qwen2, qwen2_moe, qwen3 and " ..
      "qwen3_moe are" },
    { [[return moe.load(DIR .. "/nokey")]],
      "[format] DIR/nokey: config.json: 'hidden_size' is missing: integer expected" },
    { [[return moe.load(DIR .. "/wrongtype")]],
      "[format] DIR/wrongtype: config.json: 'num_hidden_layers' has the wrong type: " ..
      "integer expected, got \"one\"" },
    { [[return moe.load(DIR .. "/noweights")]],
      "[missing] checkpoint.open: DIR/noweights: no checkpoint\n" ..
      "hint: the folder has neither model.safetensors nor model.safetensors.index.json" },
    { [[return moe.load(DIR .. "/lacking")]],
      "[format] DIR/lacking: tensor 'model.norm.weight' is missing" },
    { [[return moe.load(DIR .. "/misshapen")]],
      "[format] DIR/misshapen: tensor 'model.norm.weight' has shape [15], expected [16]" },
    { [[return moe.load(DIR .. "/extra")]],
      "[format] DIR/extra: tensor 'model.extra' has no place in this model" },
    { [[return moe.load(DIR .. "/integers")]],
      "[format] DIR/integers: tensor 'model.norm.weight' holds I32, which no weight can be" },
    { [[return moe.load(DIR .. "/rope")]],
      "[unsupported] DIR/rope: config.json: rope_scaling of type 'longrope' is not supported\n" ..
      "hint: linear, dynamic, llama3 and yarn are" },
    { [[return moe.load(DIR .. "/yarn")]],
      "[format] DIR/yarn: config.json: rope_scaling: option 'factor' is missing: number expected" },
    { [[return moe.load(DIR .. "/cut")]],
      "[format] DIR/cut/model.safetensors: incomplete metadata, file not fully covered: " ..
      "25181 bytes of data, 25280 described (MetadataIncompleteBuffer)" },
    { [[local y = moe.checkpoint.open()]],
      "checkpoint.open: path must be a string that is not empty, not nil" },
    { [[local y = moe.checkpoint.open("")]],
      "checkpoint.open: path must be a string that is not empty, not \"\"" },
    { [[return moe.checkpoint.open(DIR .. "/none.safetensors")]],
      "[missing] cannot open DIR/none.safetensors: No such file or directory" },
    { [[return moe.checkpoint.open(DIR .. "/folder")]],
      "[missing] checkpoint.open: DIR/folder: no checkpoint\n" ..
      "hint: the folder has neither model.safetensors nor model.safetensors.index.json" },
    { [[return moe.checkpoint.open(DIR .. "/empty.txt")]],
      "[format] DIR/empty.txt: header too small: 0 bytes (HeaderTooSmall)" },
    { [[return moe.checkpoint.open(DIR .. "/text.txt")]],
      "[format] DIR/text.txt: header too large: 8007454152675191148 bytes (HeaderTooLarge)" },
    { [[return moe.checkpoint.open(DIR .. "/short.safetensors")]],
      "[format] DIR/short.safetensors: header too small: 5 bytes (HeaderTooSmall)" },
    { [[return moe.checkpoint.open(DIR .. "/cut.safetensors")]],
      "[format] DIR/cut.safetensors: incomplete metadata, file not fully covered: 30 bytes " ..
      "of data, 32 described (MetadataIncompleteBuffer)" },
    { [[return moe.checkpoint.open(DIR .. "/long.safetensors")]],
      "[format] DIR/long.safetensors: incomplete metadata, file not fully covered: 33 " ..
      "bytes of data, 32 described (MetadataIncompleteBuffer)" },
    { [[return moe.checkpoint.open(DIR .. "/header.safetensors")]],
      "[format] DIR/header.safetensors: invalid JSON in header: expected an object at byte " ..
      "6 (InvalidHeaderDeserialization)" },
    { [[return moe.checkpoint.open(DIR .. "/offsets.safetensors")]],
      "[format] DIR/offsets.safetensors: invalid shape, dtype or offset for tensor `a` " ..
      "(TensorInvalidInfo)" },
    { [[return moe.checkpoint.open(DIR .. "/dtype.safetensors")]],
      "[format] DIR/dtype.safetensors: invalid JSON in header: unknown dtype at byte 20 " ..
      "(InvalidHeaderDeserialization)" },
    { [[return moe.checkpoint.open(DIR .. "/badindex")]],
      "[format] checkpoint.open: DIR/badindex/model.safetensors.index.json: an index needs " ..
      "the objects `metadata` and `weight_map`" },
    { [[return moe.checkpoint.open(DIR .. "/missingshard")]],
      "[missing] cannot open DIR/missingshard/one.safetensors: No such file or directory" },
    { [[return moe.checkpoint.open("/dev/null")]],
      "[io] cannot open /dev/null: Invalid argument" },
    { [[return file:tensor("b")]],
      "[missing] tensor: DIR/weights.safetensors: no tensor `b`" },
    { [[return file:tensor("embed_token")]],
      "[missing] tensor: DIR/weights.safetensors: no tensor `embed_token`\n" ..
      "hint: did you mean 'embed_tokens'?" },
    { [[local y = file:tensor(1)]],
      "tensor: name must be a string: got number" },
    { [[local y = file:tensor("embed_tokens", "f64")]],
      "tensor: dtype must be \"f32\", \"i32\", \"bf16\" or \"f16\", not \"f64\"" },
    { [[local y = file.names()]],
      "names: a Checkpoint is expected, got no value\n" ..
      "hint: call it as file:names(...)" },
    { [[file:close() local y = file:names()]],
      "names: the checkpoint was closed" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors")]],
      "checkpoint.save: tensors must be a table, not nil" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors", { x })]],
      "save: the name of a tensor must be a string, not 1" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors", { a = "bytes" })]],
      "save: tensor `a`: a tensor or {dtype, shape, data} expected, got string" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors", { a = { dtype = "U9", shape
      = { 1 }, data = "a" } })]],
      "save: tensor `a`: dtype must be one like \"U8\", \"I64\" or \"BF16\", not U9" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors", { a = { dtype = "U8", shape
      = { 2 }, data = "a" } })]],
      "tensor `a` has 1 bytes of data, not the 2 of its shape and dtype (InvalidTensorView)" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors", { a = x }, { step = 3 })]],
      "save: metadata `step` must be a string, not number" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors", { a = x }, nil, { dtpye =
      "bf16" })]],
      "checkpoint.save: unknown option 'dtpye'\n" ..
      "hint: did you mean 'dtype'?" },
    { [[local y = moe.checkpoint.save(DIR .. "/o.safetensors", { a = released })]],
      "save: tensor `a` was released" },
    { [[return moe.checkpoint.save(DIR .. "/text.txt/o.safetensors", { a = x })]],
      "[missing] DIR/text.txt/o.safetensors: cannot be written: Not a directory" },
    { [[return moe.checkpoint.save("/dev/full/o.safetensors", { a = x })]],
      "[missing] /dev/full/o.safetensors: cannot be written: Not a directory" },
    { [[return moe.checkpoint.save("/proc/o.safetensors", { a = x })]],
      "[missing] /proc/o.safetensors: cannot be written: No such file or directory" },
    { [[return m:save(DIR .. "/text.txt")]],
      "[io] make_folder: DIR/text.txt: a file has this name" },
    { [[return moe.tokenizer.open(DIR .. "/none")]],
      "[missing] read: DIR/none: No such file or directory" },
    { [[return moe.tokenizer.open(DIR .. "/folder")]],
      "[io] read: DIR/folder: Is a directory" },
    { [[return moe.tokenizer.open(DIR .. "/text.txt")]],
      "[format] tokenizer.open: DIR/text.txt: decode: line 1, column 4: invalid token near " ..
      "'line'" },
    { [[return moe.tokenizer.open(DIR .. "/unigram.json")]],
      "[unsupported] tokenizer.open: DIR/unigram.json: model \"Unigram\" is not supported: " ..
      "it is BPE that is" },
    { [[moe.tokenizer.bytes():encode(nil)]],
      "encode: text must be a string, not nil" },
    { [[moe.tokenizer.bytes():decode({ 1, 300 })]],
      "decode: id 2 is no byte: 300 is not in 0 to 255" },
    { [[moe.tokenizer.bytes():decode("ab")]],
      "decode: ids must be a list or a tensor, not \"ab\"" },
  }
end)
