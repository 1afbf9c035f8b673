-- Models in 16 bits, and several prompts at once: the numbers, what is kept where, what is refused.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local misuse = models.misuse

local ids = {}
for i = 1, 20 do ids[i] = i * 37 % 256 end

local function mixture(more)
  local options = { context = 64, std = 0.3, ffn = models.mixture() }
  for k, v in pairs(more or {}) do options[k] = v end
  return models.tiny(options)
end

local function types(m)
  local seen = {}
  for _, entry in ipairs(m:parameters()) do seen[entry[1]] = entry[2]:dtype() end
  return seen
end

-- What is left of the weights when they are rounded.
local function rounded(m, dtype)
  local twin = m:copy()
  for _, entry in ipairs(twin:parameters()) do
    if entry[2]:dim() > 1 and not entry[1]:find("router") then
      models.set(entry[2], entry[2]:detach():to(dtype):to("f32"))
    end
  end
  return twin
end

describe("a model in 16 bits", function()
  for _, dtype in ipairs({ "bf16", "f16" }) do
    it("computes with the rounded weights: " .. dtype, function()
      for _, more in ipairs({ {}, { tied = false, heads = 4, kv_heads = 2 } }) do
        local m = mixture(more)
        local half = m:copy():to(dtype)
        local want = rounded(m, dtype)
        helper.close(half:logits(ids), want:logits(ids), 1e-4)
        helper.close(half:logits({ 5 }), want:logits({ 5 }), 1e-4)
        local x = moe.tensor({ ids }, "i32")
        helper.close(half:loss(x, x):item(), want:loss(x, x):item(), 1e-4)
      end
    end)
  end

  it("computes with the rounded weights in layers of every kind", function()
    local kinds = { { activation = "gelu" }, models.mixture({ activation = "relu" }),
      models.mixture({ shared = { experts = 1, gate = true } }),
      models.mixture({ router = { kind = "noisy_topk" } }),
      { kind = "mot", hidden = 24, experts = 4, group = 2, temperature = "learned" } }
    local x = moe.tensor({ ids, ids }, "i32")
    for _, ffn in ipairs(kinds) do
      local m = mixture({ ffn = ffn })
      local half, want = m:copy():to("bf16"), m:copy()
      for i, entry in ipairs(half:parameters()) do
        models.set(want:parameters()[i][2], entry[2]:detach():to("f32"))
      end
      helper.close(half:logits(x), want:logits(x), 1e-4)
      local folder = helper.tmpdir() .. "/model"
      assert(half:save(folder))
      local again = assert(moe.load(folder, { dtype = "bf16" }))
      models.same(half, again)
      assert.same(types(half), types(again))
    end
  end)

  it("keeps norms and routers in f32, and has no gradients until it is f32 again", function()
    local m = mixture()
    assert.equal(m, m:to("bf16"))
    local seen = types(m)
    assert.equal("f32", seen["norm"])
    assert.equal("f32", seen["layers.0.attention_norm"])
    assert.equal("f32", seen["layers.0.ffn.router"])
    assert.equal("bf16", seen["embedding"])
    assert.equal("bf16", seen["layers.1.ffn.experts.w2"])
    assert.is_false(m:logits(ids):tracks_grad())
    m:to("f32")
    for _, entry in ipairs(m:parameters()) do
      assert.equal("f32", entry[2]:dtype())
      assert.is_true(entry[2]:tracks_grad())
    end
  end)

  it("is not trained, branched, mixed or averaged", function()
    local half, m = mixture():to("bf16"), mixture()
    local function refused(where)
      return where .. ": embedding is bf16, which is for inference\nhint: model:to(\"f32\")"
    end
    misuse(function() moe.train(half, {}) end, refused("moe.train"))
    misuse(function() moe.optimizer(half) end, refused("moe.optimizer"))
    misuse(function() moe.average({ m, half }) end, refused("average"))
    misuse(function()
      moe.branch(half, { a = models.corpus() }, { steps = 1, out = models.run_folder() })
    end, refused("branch"))
    misuse(function() half:to("i32") end,
      "to: dtype must be \"f32\", \"bf16\" or \"f16\", not \"i32\"")
  end)

  it("is copied and saved bit for bit, and loaded without a detour", function()
    local half = mixture({ tied = false }):to("bf16")
    models.same(half, half:copy())
    local folder = helper.tmpdir() .. "/model"
    assert(half:save(folder))
    local config = core.json.decode(core.system.read(folder .. "/config.json"))
    assert.equal("bfloat16", config.torch_dtype)
    local again = assert(moe.load(folder, { dtype = "bf16" }))
    models.same(half, again)
    assert.same(types(half), types(again))
    assert.equal(half:logits(ids):bytes(), again:logits(ids):bytes())
    helper.close(assert(moe.load(folder)):logits(ids), half:logits(ids), 1e-4)
    models.same(half, again:copy())
    assert(again:save(folder))                  -- over the file that its weights are mapped from
    models.same(half, again)
    models.same(half, assert(moe.load(folder, { dtype = "bf16" })))
    misuse(function() again.embedding:copy_(half.embedding) end,
      "copy_: the tensor is mapped from a file and cannot be written\nhint: write to x:clone()")
    misuse(function() moe.load(folder, { dtype = "int8" }) end,
      "load: option 'dtype' is 'int8': unknown\nhint: known are f32, bf16, f16")
  end)

  it("comes from a checkpoint in f32 as well", function()
    local m, folder = mixture(), helper.tmpdir() .. "/model"
    assert(m:save(folder))
    models.same(m:copy():to("bf16"), assert(moe.load(folder, { dtype = "bf16" })))
  end)
end)

describe("a cache in bf16", function()
  local m = mixture({ heads = 4, kv_heads = 2 })

  local function logits_after(dtype)
    local cache = require("moelua.kv_cache")(m.config, { room = 32, dtype = dtype })
    m:logits({ table.unpack(ids, 1, 3) }, nil, cache)
    local last
    for t = 4, 20 do last = m:logits({ ids[t] }, nil, cache) end
    return last:select(1, 1)
  end

  it("is as close to one in f32 as rounding keys and values allows", function()
    local exact = m:logits(ids):select(1, -1):detach()
    helper.close(logits_after("f32"), exact, 1e-5)
    local distance = models.distance(logits_after("bf16"), exact)
    local size = math.sqrt((exact * exact):mean():item())
    assert.is_true(distance > 0 and distance < 0.02 * size, distance / size)
  end)

  it("continues with a prompt of many tokens", function()
    for _, dtype in ipairs({ "f32", "bf16" }) do
      local cache = require("moelua.kv_cache")(m.config, { room = 64, dtype = dtype })
      m:logits({ 1, 2, 3 }, nil, cache)
      local got = m:logits(ids, nil, cache)
      local whole = m:logits({ 1, 2, 3, table.unpack(ids) }):narrow(1, 4, 20):detach()
      helper.close(got, whole, dtype == "f32" and 1e-5 or 0.05)
    end
  end)

  it("is refused more than it has room for", function()
    local cache = require("moelua.kv_cache")(m.config, { room = 4 })
    misuse(function() m:logits({ 1, 2, 3, 4, 5 }, nil, cache) end,
      "the cache has room for 4 tokens, not for 5")
    misuse(function() m:logits(moe.tensor({ { 1 }, { 2 } }, "i32"), nil, cache) end,
      "the cache holds 1 sequences, not 2")
  end)

  it("is nothing else", function()
    misuse(function() m:logits({ 1 }, nil, 3) end,
      "forward: cache must be a cache of keys and values, not 3")
    misuse(function() require("moelua.kv_cache")(m, { room = 4 }) end,
      "KvCache: config must be model.config, not a Model")
  end)

  it("is what generate uses when asked, or when the weights are", function()
    local how = { max_tokens = 12, temperature = 0 }
    for _, dtype in ipairs({ "bf16", "f16" }) do
      local half = m:copy():to(dtype)
      how.cache = dtype
      local want = half:generate_ids(ids, how)
      how.cache = nil
      assert.same(want, half:generate_ids(ids, how))
    end
    misuse(function() m:generate_ids(ids, { cache = "f64" }) end,
      "generate: option 'cache' is 'f64': unknown\nhint: known are f32, bf16, f16")
  end)
end)

describe("several prompts", function()
  local m = mixture()
  m.tokenizer = moe.tokenizer.bytes()
  local prompts = {}
  for i = 1, 37 do
    prompts[i] = {}
    for j = 1, 1 + i * 5 % 23 do prompts[i][j] = i * j * 11 % 256 end
  end

  for _, dtype in ipairs({ "f32", "bf16" }) do
    it("each get what they get alone with the next seed: " .. dtype, function()
      local model = m:copy():to(dtype)
      local together = model:generate_ids(prompts, { max_tokens = 30, temperature = 1, seed = 5 })
      assert.equal(#prompts, #together)
      for i, prompt in ipairs(prompts) do
        assert.same(model:generate_ids(prompt, { max_tokens = 30, temperature = 1, seed = 4 + i }),
          together[i])
      end
    end)
  end

  it("end each at its own stop, and at the context", function()
    m.tokenizer = moe.tokenizer.bytes()
    local texts = { "one", "a second one", "3", ("long "):rep(10) }
    local how = { max_tokens = 60, temperature = 1, seed = 2 }
    local whole = m:generate(texts, how)
    local stop = whole[2]:sub(5, 5)
    how.stop = stop
    local cut = m:generate(texts, how)
    for i, text in ipairs(whole) do
      local at = text:find(stop, 1, true)
      assert.equal(at and text:sub(1, at - 1) or text, cut[i])
      assert.equal(math.min(60, m.config.context - #texts[i]), #text)
    end
  end)

  it("may be none, and are checked one by one", function()
    assert.same({}, m:generate({}))
    misuse(function() m:generate_ids({ { 1 }, {} }) end, "generate: prompt 2 is empty")
    misuse(function() m:generate_ids({ { 1 }, 2 }) end,
      "generate: ids[2] must be a list of token ids, not 2")
    misuse(function() m:generate_ids({ "a", "b" }) end,
      "generate: ids[1] must be a token id, not \"a\"\nhint: model:generate(texts)")
    misuse(function() m:generate({ "a", 2 }):len() end,
      "generate: prompt must be a string, not 2\nhint: model:generate_ids(ids)")
  end)

  it("leave no tensors behind", function()
    m:generate_ids(prompts, { max_tokens = 3 })
    collectgarbage()
    local before = moe.memory().count
    m:generate_ids(prompts, { max_tokens = 3 })
    collectgarbage()
    assert.equal(before, moe.memory().count)
  end)
end)

describe("a long text", function()
  it("goes on when the first room of the cache is used up", function()
    local m = models.tiny({ context = 700, std = 0.4, layers = 1, dim = 8, hidden = 8 })
    local all = m:generate_ids({ 1, 2, 3 }, { max_tokens = 600, temperature = 1 })
    assert.equal(600, #all)
    local prefix = table.move(all, 1, 299, 4, { 1, 2, 3 })
    local row = m:logits(prefix):select(1, -1)
    local id = core.sample(row:detach(), { temperature = 1, seed = 1, index = 300 })
    assert.equal(all[300], id)
  end)
end)
