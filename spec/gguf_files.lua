-- gguf_files.lua: what the specs of GGUF share: files made byte by byte.
local core = require("moelua.core")
local made = require("spec.checkpoint_files")

local gguf = {}

local VALUES = { u8 = { 0, "<I1" }, i8 = { 1, "<i1" }, u16 = { 2, "<I2" }, i16 = { 3, "<i2" },
  u32 = { 4, "<I4" }, i32 = { 5, "<i4" }, f32 = { 6, "<f" }, bool = { 7, "<I1" },
  str = { 8, "<s8" }, u64 = { 10, "<I8" }, i64 = { 11, "<i8" }, f64 = { 12, "<d" } }

--- The numbers by which a file names types of elements.
gguf.types = { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10,
  Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, I8 = 24, I16 = 25, I32 = 26, I64 = 27, F64 = 28,
  BF16 = 30 }

--- One pair of metadata; a table of values is an array.
function gguf.pair(key, kind, value)
  local number, format = VALUES[kind][1], VALUES[kind][2]
  local text = string.pack("<s8", key)
  if type(value) ~= "table" then
    return text .. string.pack("<I4" .. format:sub(2), number, value)
  end
  local parts = { text, string.pack("<I4I4I8", 9, number, #value) }
  for _, item in ipairs(value) do parts[#parts + 1] = string.pack(format, item) end
  return table.concat(parts)
end

local function pad(size, alignment) return (-size) % alignment end

--- A whole file: { pairs = { pair... }, tensors = { { name, type, sizes (densest first), data,
--- offset? } ... }, alignment = 32, version = 3 }. Offsets are right unless given.
function gguf.compose(spec)
  local alignment, at = spec.alignment or 32, 0
  local infos, data = {}, {}
  for _, t in ipairs(spec.tensors or {}) do
    local name, kind, sizes, bytes, offset = table.unpack(t, 1, 5)
    infos[#infos + 1] = string.pack("<s8I4", name, #sizes)
      .. string.pack("<" .. ("I8"):rep(#sizes), table.unpack(sizes))
      .. string.pack("<I4I8", gguf.types[kind] or kind, offset or at)
    data[#data + 1] = bytes .. ("\0"):rep(pad(#bytes, alignment))
    at = at + #data[#data]
  end
  local header = "GGUF" .. string.pack("<I4I8I8", spec.version or 3, #infos, #(spec.pairs or {}))
    .. table.concat(spec.pairs or {}) .. table.concat(infos)
  return header .. ("\0"):rep(pad(#header, alignment)) .. table.concat(data)
end

--- Opens these bytes as a file.
function gguf.open(bytes)
  return core.checkpoint.open(made.write(bytes, made.fresh_path(".gguf")))
end

function gguf.unhex(text)
  return (text:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end))
end

return gguf
