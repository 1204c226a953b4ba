"""Broken and hostile uploads, made from good ones: what a service on the open network is sent sooner or later."""

from __future__ import annotations

import io
import random
import struct
import wave
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from tests.service.api_server import mask_png
from tests.service.videos import image_bytes, numbered_frame, rotate, write_video, write_zip

SIZE = (48, 80)


@dataclass(frozen=True)
class Upload:
    """One hostile request. `video` and `mask` are the parts' contents; body, when given, is the whole request body."""

    name: str
    video: bytes = b""
    mask: bytes = mask_png()
    filename: str = "clip.mp4"
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


def all_uploads(folder: Path, *, damage_per_file: int) -> Iterator[Upload]:
    """Every case; `damage_per_file` truncations and as many bit flips of each good file."""
    good = _good_files(folder)
    for name, data in good.items():
        yield from _truncated(name, data, damage_per_file)
        yield from _flipped(name, data, damage_per_file)
    yield from _odd_videos(folder)
    yield from _no_videos()
    yield from _lying_headers(good["mp4"])
    yield from _zips(folder)
    yield from _masks(good["mp4"])
    yield from _names_and_fields(good["mp4"])
    yield from _bodies()


def _good_files(folder: Path) -> dict[str, bytes]:
    kinds = (
        ("mp4", "libx264", "mp4"),
        ("webm", "libvpx", "webm"),
        ("avi", "mpeg4", "avi"),
        ("mkv", "mjpeg", "matroska"),
        ("ts", "libx264", "mpegts"),
    )
    good = {
        name: write_video(folder / f"good.{name}", 20, codec=codec, container=container).read_bytes()
        for name, codec, container in kinds
    }
    entries = {f"{i:03}.png": image_bytes(numbered_frame(i)) for i in range(8)}
    good["zip"] = write_zip(folder / "good.zip", entries).read_bytes()
    return good


def _truncated(name: str, data: bytes, count: int) -> Iterator[Upload]:
    for step in range(count):
        length = len(data) * step // count
        yield Upload(f"{name} cut at {length}", data[:length])


def _flipped(name: str, data: bytes, count: int) -> Iterator[Upload]:
    for seed in range(count):
        rng, damaged = random.Random(seed), bytearray(data)
        for _ in range(2 ** (seed % 8)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        yield Upload(f"{name} with flipped bits, seed {seed}", bytes(damaged))


def _odd_videos(folder: Path) -> Iterator[Upload]:
    """Good videos that many programs get wrong: these are accepted, and must end."""
    for turns in (1, 2, 3):
        data = rotate(write_video(folder / "rotated", 4), turns).read_bytes()
        yield Upload(f"rotated by {turns} quarters", data, mask_png(size=SIZE if turns == 2 else SIZE[::-1]))
    times = [0, 1, 5, 6, 50, 51]
    yield Upload("variable frame rate", write_video(folder / "vfr", 6, pts=times).read_bytes())
    yield Upload("one frame", write_video(folder / "one", 1).read_bytes())
    yield Upload("webm called mp4", write_video(folder / "webm", 4, codec="libvpx", container="webm").read_bytes())
    yield Upload("tiny frames", write_video(folder / "tiny", 4, size=(16, 16)).read_bytes(), mask_png(size=(16, 16)))
    yield Upload("8k frames", write_video(folder / "8k", 1, size=(4320, 7680)).read_bytes())
    yield Upload("very wide", write_video(folder / "wide", 2, size=(16, 4096)).read_bytes())
    yield Upload("trailing rubbish", write_video(folder / "tail", 4).read_bytes() + bytes(5000))
    yield Upload("leading rubbish", b"rubbish" + write_video(folder / "head", 4).read_bytes())


def _no_videos() -> Iterator[Upload]:
    rng = random.Random(1)
    frame = image_bytes(numbered_frame(0))
    texts = {
        "HLS playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "HLS of a local file": "#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n",
        "ffconcat": "ffconcat version 1.0\nfile /etc/passwd\n",
        "DASH manifest": '<?xml version="1.0"?><MPD><Period><BaseURL>http://127.0.0.1/</BaseURL></Period></MPD>',
        "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "HTML": "<html><video src=x></html>",
        "shell script": "#!/bin/sh\nrm -rf /\n",
        "subfile": "subfile,,start,0,end,9,,:/etc/passwd",
    }
    for name, text in texts.items():
        yield Upload(name, text.encode())
    yield Upload("empty", b"")
    yield Upload("zeros", bytes(100_000))
    yield Upload("noise", rng.randbytes(100_000))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        yield Upload(f"{kind} as video", image_bytes(numbered_frame(0), kind))
    yield Upload("PNG bomb as video", _resized_png(frame, 30_000, 30_000))
    yield Upload("audio alone", _wav())
    yield Upload("audio alone in MP4", _audio_mp4())
    yield Upload("ftyp alone", struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"isom"))
    yield Upload("endless box", struct.pack(">I4s", 0, b"moov") + bytes(1000))
    yield Upload("box of 2^63 bytes", struct.pack(">I4sQ", 1, b"mdat", 2**63 - 1) + bytes(1000))
    yield Upload("deep boxes", b"".join(struct.pack(">I4s", 80_000 - 8 * i, b"moov") for i in range(5000)))


def _wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    return out.getvalue()


def _audio_mp4() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _lying_headers(mp4: bytes) -> Iterator[Upload]:
    """Sizes, counts and offsets that promise what is not there."""
    at = mp4.index(b"avc1") + 28
    for width, height in ((16_384, 16_384), (65_535, 65_535), (0, 0), (1, 1)):
        data = mp4[:at] + struct.pack(">HH", width, height) + mp4[at + 4 :]
        yield Upload(f"header says {width}x{height}", data)
    for box in (b"stsz", b"stco", b"stsc", b"stts", b"mdhd", b"mvhd", b"stsd", b"avcC"):
        at = mp4.index(box) + 4
        yield Upload(f"{box.decode()} of ones", mp4[:at] + b"\xff" * 16 + mp4[at + 16 :])
        yield Upload(f"{box.decode()} of zeros", mp4[:at] + bytes(16) + mp4[at + 16 :])


def _resized_png(png: bytes, height: int, width: int) -> bytes:
    """The same pixels under a header that claims another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def _zips(folder: Path) -> Iterator[Upload]:
    frame = image_bytes(numbered_frame(0))
    contents = {
        "climbs out": {"../../../tmp/evil.png": frame, "../../../tmp/evil2.png": frame},
        "absolute names": {"/etc/cron.d/evil.png": frame},
        "odd names": {"a\0b.png": frame, "\u202egnp.png": frame, "x" * 300 + ".png": frame},
        "no images": {"readme.txt": b"none"},
        "empty": {},
        "two folders": {"a/0.png": frame, "b/0.png": frame},
        "pixel bomb": {"0.png": _resized_png(frame, 30_000, 30_000)},
        "sizes differ": {"0.png": frame, "1.png": image_bytes(numbered_frame(1, 32, 32))},
        "second is damaged": {"0.png": frame, "1.png": frame[:90]},
        "text called png": {"0.png": b"no image"},
        "video called png": {"0.png": b"\0\0\0\x18ftypisom" + bytes(99)},
    }
    for name, entries in contents.items():
        yield Upload(f"zip: {name}", write_zip(folder / "case.zip", entries).read_bytes())
    yield Upload("zip: bytes bomb", _deflated("0.png", bytes(200_000_000)))
    yield Upload("zip: in a zip", _deflated("0.zip", _deflated("0.png", frame)))
    damaged = bytearray(write_zip(folder / "case.zip", {"0.png": frame}).read_bytes())
    damaged[6] |= 1
    damaged[damaged.rindex(b"PK\x01\x02") + 8] |= 1
    yield Upload("zip: says it is encrypted", bytes(damaged))
    many = {f"{i}.png": b"" for i in range(3000)}
    yield Upload("zip: 3000 empty images", write_zip(folder / "case.zip", many).read_bytes())


def _deflated(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def _masks(video: bytes) -> Iterator[Upload]:
    good = mask_png()
    masks = {
        "empty": b"",
        "bomb": _resized_png(good, 60_000, 60_000),
        "cut": good[: len(good) // 2],
        "of zeros": mask_png(()),
        "of another size": mask_png(size=(24, 40)),
        "RGB": mask_png(mode="RGB"),
        "RGBA": mask_png(mode="RGBA"),
        "JPEG": image_bytes(numbered_frame(0), "JPEG"),
        "GIF": image_bytes(numbered_frame(0), "GIF"),
        "a video": video,
        "too many objects": image_bytes(np.arange(48 * 80, dtype=np.uint32).reshape(48, 80).astype(np.uint8)),
        "noise": random.Random(2).randbytes(5000),
        "text bomb": _png_with_text(good, 50_000_000),
    }
    for name, mask in masks.items():
        yield Upload(f"mask: {name}", video, mask)
    for seed in range(10):
        rng, damaged = random.Random(seed), bytearray(good)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        yield Upload(f"mask: flipped bit {seed}", video, bytes(damaged))


def _png_with_text(png: bytes, size: int) -> bytes:
    """A compressed text chunk that unpacks to `size` bytes, before the image."""
    body = b"zTXt" + b"k\0\0" + zlib.compress(bytes(size))
    return png[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + png[33:]


def _names_and_fields(video: bytes) -> Iterator[Upload]:
    for number, filename in enumerate(("../../../etc/passwd", "C:\\x\\y.mp4", "a" * 5000, '";\\"', "\u0000", "")):
        yield Upload(f"file name {number}", video, filename=filename)
    fields = {
        "engine": "../../deaot-t",
        "memory": '{"kind":' + "[" * 20_000,
        "max_side": "1" * 400,
        "start_frame": "-1",
        "end_frame": "1e3",
        "references": "[" * 50_000,
        "box": "NaN,1,2,3",
        "point": "1e999,1",
        "text": "\u0000" * 100,
        "__class__": "x",
    }
    for name, value in fields.items():
        yield Upload(f"field {name}", video, fields=((name, value),))
    yield Upload("engine twice", video, fields=(("engine", "fake"),))


def _bodies() -> Iterator[Upload]:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
    bodies = {
        "empty": b"",
        "noise": random.Random(3).randbytes(3000),
        "never ends": part % b"video" + bytes(3000),
        "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        "no headers": b"--b\r\n\r\nx\r\n--b--\r\n",
        "header without end": b"--b\r\nContent-Disposition: " + b"x" * 20_000,
        "many headers": b"--b\r\n" + b"X-A: b\r\n" * 500 + b"\r\nx\r\n--b--\r\n",
        "1000 parts": b"\r\n".join(part % b"text" + b"x" for _ in range(1000)) + b"\r\n--b--\r\n",
        "name of bad UTF-8": part % b"\xff\xfe" + b"x\r\n--b--\r\n",
        "video alone": part % b"video" + b"x\r\n--b--\r\n",
    }
    for name, body in bodies.items():
        yield Upload(f"body: {name}", body=body)
