-- What must hold for every kind of layer, in every configuration: the table of all is in
-- layer_kinds.lua, what is probed in probes.lua.
local kinds = require("spec.layer_kinds")
local probes = require("spec.probes")

local modes = { { "in training", true }, { "in evaluation", false } }

for _, case in ipairs(kinds.cases) do
  describe(case.name, function()
    for _, mode in ipairs(modes) do
      local where, train = mode[1], mode[2]
      it("depends on what its traits tell, " .. where, function()
        probes.causality(case, train)
      end)

      it("gives a sequence the same in any batch, unless it is coupled, " .. where, function()
        probes.batches(case, train)
      end)

      it("does not depend on the order of the experts, " .. where, function()
        probes.permutation(case, train)
      end)

      it("lets no NaN pass in silence, " .. where, function() probes.nan(case, train) end)

      if case.ffn.kind == "moe" then
        it("counts its slots, and weighs by its gates, " .. where, function()
          probes.bookkeeping(case, train)
        end)
      elseif case.ffn.kind == "mot" then
        it("mixes by weights that add up to 1, " .. where, function()
          probes.mixing(case, train)
        end)
      end
    end

    if case.ties then
      it("prefers the lowest experts", function() probes.ties(case) end)
    end

    it("is the same after saving and loading", function() probes.saving(case) end)
  end)
end
