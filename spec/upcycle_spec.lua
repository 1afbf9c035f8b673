-- Upcycling: a dense model becomes a mixture that computes the same, in all ways that are promised.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local misuse = models.misuse

local ids = { 5, 200, 31, 7, 7, 90, 0, 255 }

local dense = models.tiny({ tied = false })
local want = dense:logits(ids)

local function expert(m, layer, w, e)
  return m.layers[layer].ffn.experts[w]:detach():select(1, e):clone()
end

local function matrix(m, layer, w) return m.layers[layer].ffn[w]:detach() end

local function wild(m)
  for i, layer in ipairs(m.layers) do
    if layer.ffn.router then
      models.set(layer.ffn.router.weight, moe.randn(layer.ffn.router.weight:shape(),
        { std = 3, seed = i, stream = "wild" }))
    end
  end
  return m
end

describe("upcycled copies", function()
  it("are the feed-forward layer, bit for bit, and the rest is what it was", function()
    local m = moe.upcycle(dense, { experts = 3 })
    for layer = 1, 2 do
      for _, w in ipairs({ "w1", "w2", "w3" }) do
        for e = 1, 3 do
          assert.equal(matrix(dense, layer, w):bytes(), expert(m, layer, w, e):bytes())
        end
      end
    end
    local bits = models.bits(m)
    for name, bytes in pairs((models.bits(dense))) do
      if not name:find("ffn%.w") then assert.equal(bytes, bits[name], name) end
    end
  end)

  for _, router in ipairs({ { k = 1 }, { k = 2 }, { k = 4 }, { k = 3, gate = "sigmoid" },
      { kind = "soft" } }) do
    it(("keep the function: k = %s, gate = %s"):format(router.k, router.gate), function()
      local m = moe.upcycle(dense, { experts = 4, router = router })
      helper.close(m:logits(ids), want, 1e-5)
      helper.close(wild(m):logits(ids), want, 1e-5)
    end)
  end

  it("with the raw probability as gate of one give p_max FFN(x)", function()
    local m = moe.upcycle(dense, { experts = 4, router = { k = 1, gate = "all" } })
    local ffn, x = wild(m).layers[1].ffn, moe.randn(6, 16, { seed = 1, stream = "x" })
    local p = x:linear(ffn.router.weight):softmax(-1):max(-1, true)
    helper.close(ffn(x), p * dense.layers[1].ffn(x), 1e-6)
  end)

  it("lie in the layers that were asked for", function()
    local function kinds(layers)
      local list = {}
      for i, layer in ipairs(moe.upcycle(models.tiny({ layers = 5 }),
          { experts = 2, layers = layers }).config.ffn) do
        list[i] = layer.kind
      end
      return table.concat(list, " ")
    end
    assert.equal("moe moe moe moe moe", kinds())
    assert.equal("dense moe dense moe dense", kinds("alternate"))
    assert.equal("dense dense moe moe moe", kinds("last half"))
    assert.equal("dense moe dense dense moe", kinds({ 2, -1 }))
    local m = moe.upcycle(dense, { experts = 4, layers = { 2 }, router = { k = 2 } })
    helper.close(m:logits(ids), want, 1e-5)
  end)

  it("may have a shared expert, which takes its share of the output", function()
    for _, share in ipairs({ 0, 0.25, 1 }) do
      local m = moe.upcycle(dense, { experts = 3, shared = { share = share } })
      helper.close(wild(m):logits(ids), want, 1e-5)
      helper.close(m.layers[1].ffn.shared.w2, matrix(dense, 1, "w2") * share, 1e-8)
    end
  end)

  it("of narrow models in which some layers are mixtures already are made of the dense ones",
    function()
      local half = models.tiny({ ffn = { {}, models.mixture() } })
      local m = moe.upcycle(half, { experts = 2, layers = { 1 } })
      assert.equal(2, m.config.ffn[1].experts)
      assert.equal(4, m.config.ffn[2].experts)
      helper.close(m:logits(ids), half:logits(ids), 1e-5)
    end)
end)

describe("virtual groups", function()
  for _, case in ipairs({ { 2, 3 }, { 4, 2 }, { 3, 8 }, { 8, 1 } }) do
    local copies, G = table.unpack(case)
    it(("of %d segments of %d copies keep the function"):format(G, copies), function()
      for groups = 1, math.min(copies, 2) do
        local m = moe.upcycle(dense, { experts = copies, segments = G,
          router = { k = G * groups } })
        assert.equal(copies * G, m.config.ffn[1].experts)
        assert.equal(24 // G, m.config.ffn[1].hidden)
        helper.close(m:logits(ids), want, 1e-5)
      end
    end)
  end

  it("have the same router row for each segment of a copy", function()
    local w = moe.upcycle(dense, { experts = 2, segments = 3, router = { k = 3 } })
      .layers[2].ffn.router.weight:detach()
    for group = 0, 1 do
      for n = 2, 3 do
        assert.equal(w:select(1, 3 * group + 1):clone():bytes(),
          w:select(1, 3 * group + n):clone():bytes())
      end
    end
    assert.not_equal(w:select(1, 1):clone():bytes(), w:select(1, 4):clone():bytes())
  end)

  it("are one copy when k is their size", function()
    local m = moe.upcycle(dense, { experts = 4, segments = 3, router = { k = 3 } })
    local _, info = m.layers[1].ffn(moe.randn(50, 16, { seed = 1, stream = "x" }))
    for e = 1, 12, 3 do
      assert.equal(info.counts[e], info.counts[e + 1])
      assert.equal(info.counts[e], info.counts[e + 2])
    end
  end)

  it("over all probabilities keep it with E G^2 / k, when these are equal", function()
    local m = moe.upcycle(dense, { experts = 4, segments = 2, scale = 4 * 4 / 2,
      router = { k = 2, gate = "all" } })
    for _, layer in ipairs(m.layers) do layer.ffn.router.weight:detach():fill_(0) end
    helper.close(m:logits(ids), want, 1e-5)
  end)

  it("scale W2 alone, by G unless told otherwise", function()
    for _, scale in ipairs({ 3, 1, 0.5 }) do
      local m = moe.upcycle(dense, { experts = 1, segments = 3, router = { k = 3 },
        scale = scale ~= 3 and scale or nil })
      helper.close(expert(m, 1, "w2", 2), matrix(dense, 1, "w2"):narrow(2, 9, 8) * scale, 1e-8)
      assert.equal(matrix(dense, 1, "w1"):narrow(1, 9, 8):clone():bytes(),
        expert(m, 1, "w1", 2):bytes())
    end
  end)
end)

describe("hidden units in another order", function()
  it("are the same function, with other matrices", function()
    local m = moe.upcycle(dense, { experts = 3, permute = true })
    helper.close(wild(m):logits(ids), want, 1e-5)
    assert.not_equal(matrix(dense, 1, "w1"):bytes(), expert(m, 1, "w1", 1):bytes())
    assert.not_equal(expert(m, 1, "w1", 1):bytes(), expert(m, 1, "w1", 2):bytes())
  end)

  it("are all there, each once, as rows and columns", function()
    local m = moe.upcycle(dense, { experts = 2, permute = true })
    local function rows(x)
      local list = {}
      for i = 1, x:size(1) do list[i] = x:select(1, i):clone():bytes() end
      return list
    end
    local w1, w2 = rows(matrix(dense, 1, "w1")), rows(matrix(dense, 1, "w2"):transpose())
    local at = {}
    for i, row in ipairs(w1) do at[row] = i end
    local seen, columns = {}, rows(expert(m, 1, "w2", 2):transpose())
    for i, row in ipairs(rows(expert(m, 1, "w1", 2))) do
      local from = at[row]
      assert.is_nil(seen[from])
      seen[from] = true
      assert.equal(w2[from], columns[i])
    end
  end)
end)

describe("drop-upcycling", function()
  local wide = models.tiny({ dim = 32, hidden = 400, heads = 2 })
  local m = moe.upcycle(wide, { experts = 3, vary = { form = "drop", share = 0.5 } })

  -- Which rows of x differ from those of y.
  local function different(x, y)
    local list = {}
    for i = 1, x:size(1) do
      list[i] = x:select(1, i):clone():bytes() ~= y:select(1, i):clone():bytes() and 1 or 0
    end
    return list
  end

  it("redraws the same share of hidden units in all matrices of an expert", function()
    local masks = {}
    for e = 1, 3 do
      local mask = different(expert(m, 1, "w1", e), matrix(wide, 1, "w1"))
      assert.same(mask, different(expert(m, 1, "w3", e), matrix(wide, 1, "w3")))
      assert.same(mask, different(expert(m, 1, "w2", e):transpose():contiguous(),
        matrix(wide, 1, "w2"):transpose():contiguous()))
      local sum = 0
      for _, x in ipairs(mask) do sum = sum + x end
      assert.equal(200, sum)
      masks[e] = table.concat(mask)
    end
    assert.not_equal(masks[1], masks[2])
    assert.not_equal(masks[2], masks[3])
  end)

  it("draws them with mean and deviation of what they replace", function()
    local old, new = matrix(wide, 2, "w1"), expert(m, 2, "w1", 1)
    local mask, ids_of = different(new, old), {}
    for i, x in ipairs(mask) do if x == 1 then ids_of[#ids_of + 1] = i - 1 end end
    local which = moe.tensor(ids_of, "i32")
    local a, b = old:embedding(which), new:embedding(which)
    local n = 200 * 32
    local function deviation(x)
      return math.sqrt(((x - x:mean():item()) * (x - x:mean():item())):mean():item())
    end
    helper.close(b:mean():item(), a:mean():item(), 4 * deviation(a) / math.sqrt(n))
    helper.close(deviation(b) / deviation(a), 1, 4 / math.sqrt(2 * n))
  end)

  it("changes nothing with share 0 and everything with 1", function()
    local none = moe.upcycle(wide, { experts = 1, vary = { form = "drop", share = 0 } })
    assert.equal(matrix(wide, 1, "w2"):bytes(), expert(none, 1, "w2", 1):bytes())
    local all = moe.upcycle(wide, { experts = 1, vary = { form = "drop", share = 1 } })
    local mask = different(expert(all, 1, "w1", 1), matrix(wide, 1, "w1"))
    for i = 1, 400 do assert.equal(1, mask[i]) end
  end)
end)

describe("noise", function()
  local wide = models.tiny({ dim = 32, hidden = 400, heads = 2 })

  it("is added to a share of the hidden units", function()
    local m = moe.upcycle(wide, { experts = 2,
      vary = { form = "noise", share = 0.25, std = 0.05 } })
    local d = expert(m, 1, "w3", 2) - matrix(wide, 1, "w3")
    local rows = (d * d):sum(-1):totable()
    local touched, sum = 0, 0
    for _, x in ipairs(rows) do touched, sum = touched + (x > 0 and 1 or 0), sum + x end
    assert.equal(100, touched)
    helper.close(math.sqrt(sum / (100 * 32)) / 0.05, 1, 4 / math.sqrt(2 * 3200))
  end)

  it("takes the place of a share of all weights", function()
    local m = moe.upcycle(wide, { experts = 1, vary = { form = "replace", share = 0.3,
      std = 0.02 } })
    local old = matrix(wide, 1, "w1"):reshape(-1):totable()
    local new = expert(m, 1, "w1", 1):reshape(-1):totable()
    local count, sum = 0, 0
    for i, x in ipairs(new) do
      if x ~= old[i] then count, sum = count + 1, sum + x * x end
    end
    local n = 400 * 32
    helper.close(count / n, 0.3, 4 * math.sqrt(0.21 / n))
    helper.close(math.sqrt(sum / count) / 0.02, 1, 4 / math.sqrt(2 * count))
  end)
end)

describe("upcycling", function()
  it("gives the same from the same seed, and other numbers from another", function()
    for _, form in ipairs({ "noise", "replace", "drop" }) do
      local function make(seed)
        return moe.upcycle(dense, { experts = 2, seed = seed, permute = true,
          vary = { form = form } })
      end
      models.same(make(3), make(3))
      assert.not_equal(expert(make(3), 1, "w1", 1):bytes(), expert(make(4), 1, "w1", 1):bytes())
    end
  end)

  it("leaves the model as it was, keeps the tokenizer, and saves and loads", function()
    local before = require("moelua.nn").fingerprint(dense)
    local m = moe.upcycle(dense, { experts = 4, router = { k = 2 } })
    assert.equal(before, require("moelua.nn").fingerprint(dense))
    local folder = helper.tmpdir() .. "/m"
    assert(m:save(folder))
    models.same(m, assert(moe.load(folder)))
  end)

  it("trains on, and the copies part", function()
    local m = moe.upcycle(dense, { experts = 3, router = { k = 1, gate = "all" } })
    moe.train(m, models.training(models.corpus(), { steps = 3 }))
    assert.not_equal(expert(m, 1, "w1", 1):bytes(), expert(m, 1, "w1", 2):bytes())
  end)

  it("refuses what cannot be", function()
    misuse(function() moe.upcycle(dense, {}) end,
      "upcycle: option 'experts' is missing: integer expected")
    misuse(function() moe.upcycle(dense, { experts = 0 }) end,
      "upcycle: experts must be at least 1, not 0")
    misuse(function() moe.upcycle(dense, { experts = 2, segments = 5 }) end,
      "upcycle: layer 1, of hidden = 24, cannot be cut into 5 segments")
    misuse(function() moe.upcycle(dense, { experts = 2, layers = "every" }) end,
      "upcycle: layers is 'every': unknown\nhint: known are all, alternate, last half")
    misuse(function() moe.upcycle(dense, { experts = 2, layers = { 3 } }) end,
      "upcycle: there is no layer 3: the model has 2")
    misuse(function() moe.upcycle(dense, { experts = 2, layers = {} }) end,
      "upcycle: none of the 2 layers is chosen")
    misuse(function() moe.upcycle(models.tiny({ ffn = models.mixture() }), { experts = 2 }) end,
      "upcycle: layer 1 is a mixture already")
    misuse(function() moe.upcycle(dense, { experts = 2, vary = { form = "drop", share = 2 } }) end,
      "upcycle.vary: share must be 0 to 1, not 2")
    misuse(function() moe.upcycle(dense, { experts = 2, scale = math.huge }) end,
      "upcycle: scale must be finite, not inf")
    misuse(function() moe.upcycle(models.tiny({ mlp_bias = true }), { experts = 2 }) end,
      "upcycle: feed-forward layers with biases cannot become experts")
    misuse(function() moe.upcycle(3, { experts = 2 }) end,
      "upcycle: the first argument must be a model, not 3")
  end)
end)
