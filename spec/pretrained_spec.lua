-- Models that are opened without being read: names, parts of stacks, what is refused; and how much
-- memory loading takes.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local gguf_export = require("moelua.gguf_export")
local hf_config = require("moelua.hf_config")
local host = require("moelua.host")
local pretrained = require("moelua.pretrained")
local system = core.system

local GOLDEN = "spec/golden/families/"

describe("a model that was opened", function()
  it("tells what it is", function()
    local P <close> = assert(pretrained.open(GOLDEN .. "qwen3_moe-fused"))
    assert.equal("qwen3_moe", P.family.model_type)
    assert.equal("qwen3_moe", P.hf.model_type)
    assert.same((hf_config.from_json(P.hf)), P.config)
    assert.equal(GOLDEN .. "qwen3_moe-fused", P.path)
    assert.equal("model.layers.1.mlp.experts.3.up_proj.weight",
      P:name("layers.1.ffn.experts.w3", 3))
    assert.equal("model.embed_tokens.weight", P:name("embedding"))
    assert.is_nil(P:name("layers.0.ffn.shared.w1"))
    local tokenizer, message, code = P:tokenizer()
    assert.is_nil(tokenizer)
    assert.equal(P.path .. ": there is no tokenizer.json", message)
    assert.equal("missing", code)
  end)

  it("has the tensors under the names that its family writes", function()
    local P <close> = assert(pretrained.open(GOLDEN .. "mixtral-fused"))
    local file, m = P.file, assert(moe.load(GOLDEN .. "mixtral-fused"))
    local folder = helper.tmpdir() .. "/model"
    assert(m:save(folder))
    local written = assert(moe.checkpoint.open(folder))
    assert.same(written:names(), file:names())
    for _, name in ipairs(file:names()) do
      assert.same(written:info(name).shape, file:info(name).shape)
      assert.equal("BF16", file:info(name).dtype)
      assert.equal(written:info(name).bytes, 2 * file:info(name).bytes)
      assert.equal(written:tensor(name):bytes(), file:tensor(name):bytes(), name)
      local source = file:source(name)
      assert.equal(written:tensor(name):bytes(), core.checkpoint.read(source):bytes())
      assert.equal(file:tensor(name, "bf16"):bytes(), file:raw(name), name)
    end
    local _, message, code = file:tensor("model.layers.0.block_sparse_moe.experts.9.w1.weight")
    assert.matches("^source: no tensor `model.layers.0.block_sparse_moe.experts.9.w1.weight`",
      message)
    assert.equal("missing", code)
    assert.is_nil((file:info("x")))
    assert.is_nil((file:raw("x")))
  end)

  it("may be of a type that nobody knows, when that is fine", function()
    local folder = helper.tmpdir()
    system.write(folder .. "/config.json", '{"model_type": "gpt2", "n_embd": 8}')
    assert(moe.checkpoint.save(folder, { ["wte.weight"] = moe.ones(3, 8) }))
    local P <close> = assert(pretrained.open(folder, { any = true }))
    assert.is_nil(P.family)
    assert.is_nil(P.config)
    assert.equal(8, P.hf.n_embd)
    assert.same({ "wte.weight" }, P.file:names())
    assert.equal(24, P.file:tensor("wte.weight"):sum():item())
    assert.is_nil(P:name("embedding"))
    local none, message, code = pretrained.open(folder)
    assert.is_nil(none)
    assert.is_truthy(message:find(folder .. ": config.json: model_type 'gpt2' is not supported\n" ..
      "hint: ", 1, true))
    assert.equal("unsupported", code)
    -- damage is damage, whatever the type
    system.write(folder .. "/config.json", '{"model_type": "gpt2", ')
    none, message, code = pretrained.open(folder, { any = true })
    assert.is_nil(none)
    assert.matches("config.json: ", message)
    assert.equal("format", code)
  end)

  it("is refused where there is none", function()
    local folder = helper.tmpdir()
    local path = folder .. "/model.safetensors"
    assert(moe.checkpoint.save(path, { a = moe.ones(1) }))
    local m, message, code = moe.load(path)
    assert.is_nil(m)
    assert.equal("load: " .. path .. " has tensors, but no config.json\n" ..
      "hint: give the folder that it is in", message)
    assert.equal("format", code)
    system.write(folder .. "/config.json", "{}")
    m, message = moe.load(folder .. "/config.json")
    assert.is_nil(m)
    assert.equal("load: " .. folder .. "/config.json has no tensors\n" ..
      "hint: give the folder that it is in", message)
    system.write(folder .. "/text", "no model")
    m, message, code = moe.load(folder .. "/text")
    assert.is_nil(m)
    assert.equal("string", type(message))
    assert.equal("format", code)
    m, message, code = moe.load(folder .. "/none.gguf")
    assert.is_nil(m)
    assert.matches("is no model folder", message)
    assert.equal("missing", code)
    models.misuse(function() pretrained.open("") end,
      'pretrained.open: path must be the path of a model, not ""')
    models.misuse(function() pretrained.open(folder, { all = true }) end,
      "pretrained.open: unknown option 'all'\nhint: known are any")
  end)
end)

describe("loading", function()
  local experts = models.tiny({ dim = 64, layers = 2, heads = 2, vocab = 512,
    ffn = models.mixture({ hidden = 256, experts = 8 }) })
  local largest = 4 * 512 * 64
  local folder = helper.tmpdir() .. "/model"
  assert(experts:save(folder, { dtype = "bf16" }))

  -- Bytes that a process needs for it at once, and those that it keeps.
  local function memory_of(path, dtype)
    local script, out = folder .. ".lua", folder .. ".out"
    system.remove_tree(out)             -- which output is added to
    assert(system.write(script, [[
      local moe = require("moelua")
      local m = assert(moe.load(arg[1], { dtype = arg[2] }))
      print(moe.memory().peak, moe.memory().live, m:count())]]))
    local process = assert(system.spawn({ host.program, script, path, dtype, stdout = out }))
    assert.same({ exited = 0 }, process:wait(60))
    local peak, live = assert(system.read(out)):match("^(%d+)%s+(%d+)%s")
    return tonumber(peak), tonumber(live)
  end

  it("takes no more memory than the model and one tensor", function()
    local peak, live = memory_of(folder, "f32")
    assert.is_true(live > 4 * experts:count())
    assert.is_true(peak <= live + largest + 65536, ("%d beyond %d"):format(peak - live, live))
  end)

  it("leaves stacks in 16 bits where they are, if they are stacks there", function()
    local path = folder .. ".gguf"
    local m = assert(moe.load(folder))
    assert(gguf_export.write(m, path, { dtype = "bf16" }))
    local stacks = 2 * 2 * 8 * 3 * 64 * 256
    local _, apart = memory_of(folder, "bf16")
    local _, stacked = memory_of(path, "bf16")
    assert.is_true(apart > stacks)
    assert.is_true(stacked < stacks / 4, ("%d of %d"):format(stacked, stacks))
    local a = assert(moe.load(folder, { dtype = "bf16" }))
    local b = assert(moe.load(path, { dtype = "bf16" }))
    models.same(a, b)
    assert.equal(a:logits({ 1, 2, 3 }):bytes(), b:logits({ 1, 2, 3 }):bytes())
  end)
end)
