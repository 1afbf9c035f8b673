-- Matrix products of every kernel variant that runs here, against three plain loops. The loops and
-- the thousands of shapes are in scripts/checks/products.c.
local host = require("moelua.host")

local checker = host.program:gsub("[^/]*$", "check_products")

-- What the checker says about a format of a variant.
local function check(variant, format)
  local output = assert(io.popen(("'%s' %s %s"):format(checker, variant, format)))
  local text = output:read("a")
  local good = output:close()
  return good, text
end

describe("matrix products", function()
  local ran = {}
  for _, variant in ipairs({ "plain", "openblas", "avx2", "avx512", "avx512bf16", "amx" }) do
    for _, format in ipairs({ "f32", "bf16" }) do
      it(("of %s in %s are those of three loops"):format(variant, format), function()
        local good, text = check(variant, format)
        assert(good, text)
        ran[variant] = text ~= "absent\n"
        if ran[variant] then assert.is_true(tonumber(text:match("^(%d+) products\n$")) > 6000) end
      end)
    end
  end

  it("of the variant that was chosen for this processor are among them", function()
    assert.is_true(ran.plain)
    assert.is_true(ran[require("moelua").kernels])
  end)
end)
