"""Hostile changes to files: of bytes, of JSON, of safetensors, zip and PNG, with digests left stale or put right."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import safetensors
import safetensors.torch
import torch

from dpdm_cli import checkpoint
from dpdm_cli.data.prepare import prepared
from dpdm_cli.sampling import sample_metadata
from dpdm_cli.stored import json_digest

Mutation = tuple[bytes, bool]
"""A file, and whether somebody has put its own digest right, so that it may be another one that is whole."""

NUMBERS = (0, -1, 1, 2**31, 2**63 - 1, 2**63, 10**9, 10**400, -0.0, 5e-324, 1e308, 0.5, True)
WORDS = (
    "",
    "x" * 5000,
    "\x1b[31mred\x1b[0m",
    "../../etc/passwd",
    "<script>",
    "a\0b",
    "\ud800",
    "\u202egnp",
    "NaN",
    "custom",
    "0" * 64,
)
DEEP: Any = {}
for _ in range(200):
    DEEP = [DEEP]


def hostile(value: Any, random: random.Random) -> Any:
    """Something else in the place of a value of a JSON object."""
    others = [None, [], {}, DEEP, [value] * 1000, {"a": value}, *NUMBERS, *WORDS]
    others += [float("nan"), float("inf"), -float("inf")]
    if isinstance(value, int | float) and not isinstance(value, bool):
        others += [value + 1, -value, value * 10**9, float(value), str(value)] * 4
    if isinstance(value, str) and value:
        others += [value[:-1], value + value, value.upper(), value[::-1]] * 4
    return random.choice(others)


def of_values(values: Any, random: random.Random) -> Any:
    """A JSON object with one place in it changed, taken away or added."""
    values = deepcopy(values)
    place = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = random.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and random.random() < 0.8:
            place = place[key]
            continue
        if random.random() < 0.15:
            del place[key]
        else:
            place[key] = hostile(place[key], random)
        return values
    if isinstance(place, dict):
        place["more"] = hostile(0, random)
    else:
        place.append(hostile(0, random))
    return values


def of_bytes(content: bytes, random: random.Random) -> bytes:
    """Some bytes changed, taken away or put in."""
    data = bytearray(content)
    # Half of the time at the beginning or the end, where formats say what they are.
    reach = min(len(data) - 1, 200)
    at = random.choice([random.randint(0, reach), len(data) - 1 - random.randint(0, reach)])
    if random.random() < 0.5:
        at = random.randrange(len(data))
    length = random.choice([1, 2, 8, 100, len(data) // 3])
    match random.randrange(8):
        case 0:
            data[at] ^= 1 << random.randrange(8)
        case 1:
            del data[at:]
        case 2:
            del data[at : at + length]
        case 3:
            data[at : at + length] = bytes(length)
        case 4:
            data[at : at + length] = random.randbytes(length)
        case 5:
            data[at:at] = data[:length]
        case 6:
            number = random.choice([0, 1, 2**15, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
            data[at : at + 8] = number.to_bytes(8, random.choice(["little", "big"]))
        case _:
            data += random.choice([b"\0", b" ", b"PK\5\6", content])
    return bytes(data)


def of_json(content: bytes, random: random.Random) -> Mutation:
    if random.random() < 0.25:
        return of_bytes(content, random), False
    values = of_values(json.loads(content), random)
    is_sealed = sample_metadata._SEAL in values and random.random() < 0.5
    if is_sealed:
        values[sample_metadata._SEAL] = sample_metadata._seal_of(values)
    return json.dumps(values, indent=2).encode("utf-8", "surrogatepass") + b"\n", is_sealed


def of_checkpoint(content: bytes, random: random.Random) -> Mutation:
    """A model or a state."""
    if random.random() < 0.3:
        return of_bytes(content, random), False
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    if random.random() < 0.3:
        head = of_values(head, random)
        text = json.dumps(head, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + content[8 + length :], False
    tensors = safetensors.torch.load(content)
    header = json.loads(head["__metadata__"][checkpoint._KEY])
    written = header.pop(checkpoint._DIGEST)
    if random.random() < 0.3:
        name = random.choice(list(tensors))
        tensors[name] = of_tensor(tensors[name], random)
    else:
        header = of_values(header, random)
    is_sealed = random.random() < 0.7
    try:
        digest = checkpoint._digest(tensors, header) if is_sealed else written
        text = json.dumps({**header, checkpoint._DIGEST: digest}, sort_keys=True)
        return safetensors.torch.save(tensors, {checkpoint._KEY: text}), is_sealed
    except (ValueError, TypeError, UnicodeError, RuntimeError, safetensors.SafetensorError):
        return of_bytes(content, random), False


def of_tensor(tensor: torch.Tensor, random: random.Random) -> torch.Tensor:
    """Other values, another shape or another type."""
    match random.randrange(5):
        case 0:
            return (
                tensor.new_full(tensor.shape, float("nan"))
                if tensor.is_floating_point()
                else -tensor
            )
        case 1:
            return tensor * 1e30 if tensor.is_floating_point() else tensor + 1
        case 2:
            return tensor.flatten()[: tensor.numel() // 2].clone()
        case 3:
            return tensor[None].clone()
        case _:
            return tensor.to(
                random.choice([torch.float8_e4m3fn, torch.float16, torch.int8, torch.bool])
            )


def of_prepared(content: bytes, random: random.Random) -> Mutation:
    if random.random() < 0.5:
        return of_bytes(content, random), False
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    is_sealed = random.random() < 0.7
    if random.random() < 0.3:
        head = of_values(head, random)
    else:
        facts = json.loads(head["__metadata__"][prepared._KEY])
        written = facts.pop(prepared._DIGEST)
        facts = of_values(facts, random)
        digest = json_digest(facts) if is_sealed else written
        head["__metadata__"][prepared._KEY] = json.dumps({**facts, prepared._DIGEST: digest})
    text = json.dumps(head).encode().ljust(length)
    return len(text).to_bytes(8, "little") + text + content[8 + length :], is_sealed


def of_zip(content: bytes, random: random.Random) -> Mutation:
    """Also an npz: members by other names, of other content, or described otherwise."""
    if random.random() < 0.5:
        return of_bytes(content, random), False
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
        members = source.infolist()
        chosen = random.randrange(len(members))
        for at, member in enumerate(members):
            name, data = member.filename, source.read(member)
            info = zipfile.ZipInfo(name)
            info.compress_type = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            if at == chosen:
                match random.randrange(6):
                    case 0:
                        continue
                    case 1:
                        info.filename = random.choice(
                            [
                                "/x",
                                "../x",
                                "a\\b",
                                "a/" * 500 + "x",
                                "\x1b[31m.png",
                                name.upper(),
                                ".",
                                "x.zip",
                            ]
                        )
                    case 2:
                        data = of_bytes(data, random)
                    case 3:
                        data = data * 1000
                    case 4:
                        info.external_attr = random.choice([0o120777 << 16, 0o010644 << 16, 0x10])
                    case _:
                        header = data[:128].replace(
                            b"(", random.choice([b"(-", b"(9999999999,", b"(0,"]), 1
                        )
                        data = header + data[128:]
            archive.writestr(info, data)
        if random.random() < 0.2:
            archive.comment = b"x" * random.choice([1, 65535])
    return target.getvalue(), False


def of_parquet(content: bytes, random: random.Random) -> Mutation:
    """Bytes of the pages or of the description behind them, whose length is right."""
    if random.random() < 0.5:
        return of_bytes(content, random), False
    length = int.from_bytes(content[-8:-4], "little")
    pages, described = content[: -8 - length], content[-8 - length : -8]
    if random.random() < 0.3:
        pages = of_bytes(pages, random)
    else:
        described = of_bytes(described, random)
    return pages + described + len(described).to_bytes(4, "little") + b"PAR1", False


def of_png(content: bytes, random: random.Random) -> Mutation:
    """Chunks changed, with checksums that are right."""
    if random.random() < 0.4:
        return of_bytes(content, random), False
    chunks = []
    at = 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = random.randrange(len(chunks))
    kind, data = chunks[chosen]
    match random.randrange(5):
        case 0:
            if kind == b"IHDR":
                side = random.choice([0, 1, 2**15, 2**31 - 1])
                data = struct.pack(">II", side, side) + data[8:]
            elif data:
                data = of_bytes(data, random)
        case 1:
            chunks.insert(
                chosen,
                (
                    random.choice([b"tEXt", b"iCCP", b"eXIf", b"acTL", b"PLTE", b"tRNS"]),
                    random.randbytes(99),
                ),
            )
        case 2:
            kind = b"IDAT"
            data = zlib.compress(bytes(10_000_000))
        case 3:
            if kind == b"IHDR":
                data = data[:8] + bytes(
                    [random.choice([0, 1, 16, 255]), random.choice([0, 2, 3, 6, 9]), *data[10:]]
                )
        case _:
            chunks.pop(chosen)
            chosen = min(chosen, len(chunks) - 1)
            kind, data = chunks[chosen]
    chunks[chosen] = kind, data
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return content[:8] + body, False


BY_ENDING: dict[str, Callable[[bytes, random.Random], Mutation]] = {
    "json": of_json,
    "safetensors": of_checkpoint,
    "zip": of_zip,
    "npz": of_zip,
    "png": of_png,
    "parquet": of_parquet,
}


def is_same(one: bytes, other: bytes, ending: str) -> bool:
    """Whether two files say the same, whatever blanks stand between."""
    if one == other or ending not in ("json", "safetensors"):
        return one == other
    try:
        return _said(one, ending) == _said(other, ending)
    except (ValueError, RecursionError):
        return False


def _said(content: bytes, ending: str) -> tuple[str, bytes]:
    rest = b""
    if ending == "safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        content, rest = content[8:end], content[end:]
    return json.dumps(json.loads(content), sort_keys=True), rest
