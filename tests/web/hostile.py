"""Names that mean harm, the same ones in every run, and a strict reader of what comes back."""

import random
import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby

SEED = 20261120

_WORDS = [
    "a", "report", "x.txt", ".pdf", ".tar.gz", ".html", ".exe", "отчёт", "보고서", "תיק", "ملف", "報告",
    "рaypal", "ﬁle", "ＡＢＣ", "\u212a", "\u2126", "ß", "İ", "\ufdfa", "½", "…", "\u2024", "\u2025",
]  # fmt: skip
_PATHS = [
    "/", "\\", "//", "../", "..\\", ".", "..", "...", "/etc/passwd", "C:\\boot.ini", "C:", "~/",
    "\uff0f", "\uff3c", "\u2215", "\u2044", "\u29f8", "\uff0e\uff0e\uff0f", "file:///", "::$DATA",
    "CON", "nul.txt", "COM1", "aux.", "LPT9.log", "-", "--", "-rf", "-o/etc", "*", "?", "|", "<", ">",
]  # fmt: skip
_CONTROLS = [
    "\0", "\r", "\n", "\r\n", "\t", "\x1b[2J", "\x7f", "\x85", "\x9b", "\x01", "\u2028", "\u2029",
    "\r\nSet-Cookie: a=b", "\r\n\r\n<script>", "\nX-Evil: 1", "%0d%0aX-Evil:%201", "%00", "%0A",
]  # fmt: skip
_QUOTES = [
    '"', "'", '\\"', '"; filename="evil.exe', ";filename=evil", "; filename*=UTF-8''evil", ";", "=",
    "'';", "`", "<b>", "&quot;", "%22", "%2F", "%5c", "%2e%2e", "%", "%%", "%zz", "%u0041", "+", "#",
    "=?utf-8?B?ZXZpbC5leGU=?=", "=?iso-8859-1?Q?=2E=2E?=", "UTF-8''%2e%2e%2f", "{}", "$(id)", ",",
]  # fmt: skip
_UNSEEN = [
    "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069", "\u2060",
    "\u2063", "\u2065", "\ufeff", "\u00ad", "\u061c", "\u180e", "\u034f", "\u115f", "\u1160", "\u3164",
    "\uffa0", "\u17b4", "\ufff9", "\ufffb", "\U000e0001", "\U000e0041", "\U0001d173", "\U0001bca0",
    "\ufe0f", "\u202egpj.", "\u200d\u200d", "\u200b\u200d", " ", "  ", "\u00a0", "\u3000", "\u2003",
]  # fmt: skip
_MARKS = [
    "e\u0301", "\u0301", "Z\u0351\u036b\u0343", "\u0e49" * 9, "👩\u200d👩\u200d👧", "🏴\U000e0067\U000e007f",
    "👍🏽", "1\ufe0f\u20e3", "\U0010ffff", "\ufffe", "\ufffd", "\ue000", "می\u200cخواهم", "क\u200dष", "\u3099",
]  # fmt: skip
_BYTES = [
    b"\xff", b"\xfe\xff", b"\xc0\xaf", b"\xc0\xae\xc0\xae", b"\xe9t\xe9", b"\xd0", b"\xed\xa0\x80",
    b"\xed\xb2\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xe2\x80",
]  # fmt: skip
_KINDS = [
    [each.encode() for each in kind]
    for kind in (_WORDS, _WORDS, _PATHS, _CONTROLS, _QUOTES, _UNSEEN, _UNSEEN, _MARKS)
]


def make_names(count: int) -> Iterator[bytes]:
    """Yield names as bytes, for no text has all of them; the same ones in every run."""
    chance = random.Random(SEED)
    kinds = [*_KINDS, _BYTES]
    weights = [6, 6, 4, 2, 5, 4, 4, 4, 1]
    for _ in range(count):
        chosen = chance.choices(kinds, weights, k=chance.randint(1, 5))
        name = b"".join(chance.choice(kind) for kind in chosen)
        if chance.random() < 0.1:  # about the longest, in characters or in bytes
            name = _lengthen(chance, name)
        yield name


def _lengthen(chance: random.Random, name: bytes) -> bytes:
    filler = chance.choice(["x", "ж", "한", "📦", "\u0301", ".", " ", "\ufdfa", "\u200dж"]).encode()
    characters = chance.choice([60, 84, 126, 220, 240, 250, 300])
    return name[: chance.randint(0, len(name))] + filler * characters + name


# --- what is unseen, by Unicode and not by the service ---

# Default_Ignorable_Code_Point of Unicode 15 with the separators of lines and the annotations of
# interlinear text; less the variation selectors, which choose how a character looks.
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_JOINERS = "\u200c\u200d"
UNSEEN = re.compile(f"(?![{_JOINERS}])[{_IGNORABLE}]")


def has_stray_joiner(text: str) -> bool:
    """Whether a joiner stands where it joins nothing: at an end, or beside ASCII."""
    runs = [(is_run, "".join(run)) for is_run, run in groupby(text, lambda each: each in _JOINERS)]
    for at, (is_run, _) in enumerate(runs):
        around = [runs[side][1] for side in (at - 1, at + 1) if 0 <= side < len(runs)]
        if is_run and (len(around) < 2 or around[0][-1].isascii() or around[1][0].isascii()):
            return True
    return False


def drop_unseen(text: str) -> str:
    """Return `text` without what nobody sees, composed, and without blanks at its ends."""
    text = UNSEEN.sub("", unicodedata.normalize("NFC", text))
    runs = ["".join(run) for _, run in groupby(text, lambda each: each in _JOINERS)]
    kept = ""
    for at, run in enumerate(runs):
        if run[0] in _JOINERS:
            following = runs[at + 1][0] if at + 1 < len(runs) else "."
            if not kept or kept[-1].isascii() or following.isascii():
                continue
        kept += run
    kept = unicodedata.normalize("NFC", kept)
    while kept and (kept[-1] in "." + _JOINERS or kept[-1].isspace()):
        kept = kept[:-1]
    while kept and (kept[0] in _JOINERS or kept[0].isspace()):
        kept = kept[1:]
    return kept


# --- Content-Disposition by the letter: RFC 6266 §4.1, RFC 9110 §5.6, RFC 8187 §3.2.1 ---

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TEXT = re.compile(r'"((?:[\t !#-\[\]-~]|\\[\t -~])*)"')
_EXTENDED = re.compile(r"UTF-8'([A-Za-z-]*)'((?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})*)")


def read_disposition(value: str) -> tuple[str, dict[str, str]]:
    """Return the type and the parameters; an AssertionError for what the grammar does not have."""
    kind, at = _read(_TOKEN, value, 0)
    parameters: dict[str, str] = {}
    while at < len(value):
        assert value[at : at + 2] == "; ", value
        name, at = _read(_TOKEN, value, at + 2)
        assert value[at] == "=", value
        assert name[0] not in parameters, value
        if name[0].endswith("*"):
            extended, at = _read(_EXTENDED, value, at + 1)
            encoded = re.sub(r"%(..)", lambda each: chr(int(each[1], 16)), extended[2])
            parameters[name[0]] = encoded.encode("latin-1").decode("utf-8")
        else:
            quoted, at = _read(_TEXT, value, at + 1)
            parameters[name[0]] = re.sub(r"\\(.)", r"\1", quoted[1])
    return kind[0], parameters


def _read(pattern: re.Pattern[str], value: str, at: int) -> tuple[re.Match[str], int]:
    match = pattern.match(value, at)
    assert match is not None, (value, at)
    return match, match.end()
