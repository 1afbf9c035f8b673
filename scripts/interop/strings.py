"""Strings that tokenizers may disagree about, the same ones in every run."""

import random
import unicodedata

BLOCKS = ((0x20, 0x7E), (0xA0, 0x17F), (0x1E00, 0x1EFF), (0x300, 0x36F), (0x370, 0x3FF),
          (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
          (0x1100, 0x11FF), (0x2000, 0x206F), (0x2150, 0x218F), (0x2460, 0x24FF),
          (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF),
          (0xFF00, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x20000, 0x2A6D6))
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\n\n", "\u00a0", "\u2003", "\u3000",
          "\u200b", "\u0085", "\u2028", "\x0b", "\x0c", "\x1c", "\x1f", "\u180e", "\u1680",
          "\ufeff", "\u202f", "\x00"]
WORDS = """
    the of experts router Mixture gradient tokens I'm DON'T we'LL they've it's 's 'S 'tis O'Neil
    l'été Straße naïve ﬁnal ångström İstanbul ǅ Привет мир мы γειά σου שלום عليكم नमस्ते สวัสดี 你好
    世界 日本語 テスト 안녕하세요 e\u0301 n\u0303o \u1100\u1161\u11a8 ½ ² Ⅷ ① ٣٤ १२ 𝟘𝟙 ％ … — “quoted”
    «guillemets» camelCase snake_case SCREAMING_CASE kebab-case x86_64
    http://example.org/a?b=c&d=%20 me@example.org 1,234.56e-7 3.14159 2026-01-31 0xFF 1000000
    12345678901234567890 007 1st 2nd Ġ ▁ ▁▁word Ċ <0x41> ##ing
    """.split()
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "❤️", "1️⃣", "🤷🏾‍♀️", "☕", "©", "™"]
CODE = ["def f(x):\n    return x ** 2  # square\n", "while (i--) {\n    x;\n}\n",
        "for (int i = 0; i < n; i++) {\n\tsum += a;\n}\n",
        "local t <const> = { a = 1, [\"b\"] = 2 }\n  print(#t, t.a ~= nil)\n", "SELECT * FROM t;",
        "{\"key\": [1, 2.5e10, null],\n  \"nested\": {\"a\": \"\\u00e9\\n\"}}", "a->b && !c || d",
        "\\frac{\\partial L}{\\partial w_{ij}} = \\sum_k x_k", "<div class=\"a\">&nbsp;</div>\r\n",
        "#include <stdio.h>\n\n\n", "x = {'a':1,**y}\n\n\n    pass",
        "$ git commit -m 'fix: …' && make -j2"]


def any_character(draw):
    """Of a version of Unicode that all know."""
    while True:
        point = draw.choice([draw.randrange(0x80), draw.randrange(0x3000), draw.randrange(0x30000)])
        if unicodedata.ucd_3_2_0.category(chr(point)) not in ("Cn", "Cs"):
            return chr(point)


def of_a_block(draw):
    low, high = draw.choice(BLOCKS)
    known = [chr(draw.randint(low, high)) for _ in range(draw.randint(1, 12))]
    return "".join(c for c in known if unicodedata.ucd_3_2_0.category(c) != "Cn")


def sentence(draw):
    words = [draw.choice(WORDS) for _ in range(draw.randint(1, 8))]
    return draw.choice(["", " "]) + draw.choice([" ", " ", "  ", "\n", ", "]).join(words)


def piece(draw, special):
    kind = draw.randrange(10)
    if kind < 3:
        return sentence(draw)
    if kind == 3:
        return draw.choice(CODE)
    if kind == 4:
        return "".join(draw.choice(SPACES) for _ in range(draw.randint(1, 6)))
    if kind == 5:
        return of_a_block(draw)
    if kind == 6:
        return "".join(any_character(draw) for _ in range(draw.randint(1, 10)))
    if kind == 7:
        return draw.choice(EMOJI) * draw.randint(1, 3)
    if kind == 8:
        return draw.choice(["a", " ", "\n", "0", "=", "é", "▁", "漢", "ab"]) * draw.randint(1, 60)
    token = draw.choice(special)
    return draw.choice([token, token, token[:-1], token[1:], " " + token, token + " ", token * 2])


def strings(count, special, seed=1):
    """`special`: texts of tokens that stand in some of them, whole or broken."""
    draw = random.Random(seed)
    out = ["", " ", "a"]
    while len(out) < count:
        out.append("".join(piece(draw, special) for _ in range(draw.randint(1, 5))))
    return out
