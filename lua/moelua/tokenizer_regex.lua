-- tokenizer_regex.lua: regular expressions of tokenizer.json (Oniguruma's) for PCRE2.
--
-- The two agree in nearly all that is in use. \s and \w mean other characters than PCRE2's: their
-- Unicode definitions are written out. What would silently mean something else is refused.

-- White_Space, and what \w is in Oniguruma: letters, marks, digits, letter numbers, connectors.
local SPACE = [[\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}]]
  .. [[\x{202f}\x{205f}\x{3000}]]
local WORD = [[\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}]]
local DIGIT = [[\p{Nd}]]

-- Quantifiers that are read in two ways: {,3} is plain text for one, {1,3}+ possessive for one.
local function is_odd_quantifier(pattern, at)
  return pattern:find("^{,%d", at) or pattern:find("^{%d+,?%d*}%+", at)
end

local CLASSES = { s = SPACE, w = WORD, d = DIGIT }
local NEGATED = { S = SPACE, W = WORD, D = DIGIT }

-- Escapes that mean something else in one of the two.
local REFUSED = "[vhHRXKZGNOyYCgkMcQE]"

-- What an escape becomes; nil, reason when it cannot.
local function escape(letter, in_class)
  if letter:find(REFUSED) then return nil, "\\" .. letter end
  local set = CLASSES[letter]
  if set then return in_class and set or "[" .. set .. "]" end
  set = NEGATED[letter]
  if not set then return "\\" .. letter end
  if not in_class then return "[^" .. set .. "]" end
  -- Inside of a class there is no complement of a list.
  if letter == "D" then return [[\P{Nd}]] end
  return nil, "\\" .. letter .. " in a class"
end

-- One character or escape of a class at `at`: what it becomes and where it ends.
local function in_class(pattern, at)
  local c = pattern:sub(at, at)
  if c == "\\" then
    local becomes, reason = escape(pattern:sub(at + 1, at + 1), true)
    return becomes, becomes and at + 2 or reason
  end
  if pattern:find("^%[:%^?%a+:%]", at) then
    local stop = pattern:find(":]", at, true) + 2
    return pattern:sub(at, stop - 1), stop
  end
  if c == "[" then return nil, "a class in a class" end
  if pattern:sub(at, at + 1) == "&&" then return nil, "&& in a class" end
  return c, at + 1
end

-- The class that begins at `at`.
local function class(pattern, at)
  local out = { pattern:match("^%[%^?%]?", at) }
  at = at + #out[1]
  while at <= #pattern do
    if pattern:sub(at, at) == "]" then return table.concat(out) .. "]", at + 1 end
    local becomes, next_at = in_class(pattern, at)
    if not becomes then return nil, next_at end
    out[#out + 1], at = becomes, next_at
  end
  return nil, "a class without end"
end

-- Groups that the two write alike: plain, (?:, look-around, atomic, and options of case.
local function is_known_group(pattern, at)
  local rest = pattern:sub(at, at + 8)
  return not rest:find("^%(%*") and (not rest:find("^%(%?") or rest:find("^%(%?[:=!>]")
    or rest:find("^%(%?<[=!]") or rest:find("^%(%?%-?i%-?[:)]"))
end

--- The expression for PCRE2; nil and what is not supported.
---@param pattern string
---@return string? expression
---@return string? reason
return function(pattern)
  local out, at = {}, 1
  while at <= #pattern do
    local c = pattern:sub(at, at)
    local becomes, next_at = c, at + 1
    if c == "\\" then
      becomes, next_at = escape(pattern:sub(at + 1, at + 1), false)
      if becomes then next_at = at + 2 end
    elseif c == "[" then
      becomes, next_at = class(pattern, at)
      elseif c == "{" and is_odd_quantifier(pattern, at) then
      becomes, next_at = nil, pattern:match("^{%d*,?%d*}?%+?", at)
    elseif c == "(" and not is_known_group(pattern, at) then
      becomes, next_at = nil, pattern:sub(at, at + 2)
    end
    if not becomes then return nil, next_at end
    out[#out + 1], at = becomes, next_at
  end
  return table.concat(out)
end
