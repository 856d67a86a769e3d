"""Image files, sound and damaged, without a library for images."""

import base64
import struct
import zlib


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=8, height=8, data=None, level=6, declared=None):
    """A PNG of 8-bit colours. `data` stands for the compressed pixels; `declared` for the size that its header names."""
    header = struct.pack(">IIBBBBB", *(declared or (width, height)), 8, 2, 0, 0, 0)
    if data is None:
        data = zlib.compress((b"\0" + b"\x40\x80\xc0" * width) * height, level)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
# Eight by eight pixels of grey. Both tables have one code, of one bit; the pixels are one code of each.
JPEG = (
    b"\xff\xd8"
    + b"\xff\xdb\0\x43\0" + bytes([1] * 64)
    + b"\xff\xc0\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0"
    + b"".join(b"\xff\xc4\0\x14" + bytes([kind, 1, *[0] * 15, 0]) for kind in (0x00, 0x10))
    + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\x3f"
    + b"\xff\xd9"
)
WEBP = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")

SOUND = {"sound.png": png(), "sound.gif": GIF, "sound.jpg": JPEG, "sound.webp": WEBP}

# Files that begin like an image and are none. Some decoders take more of them than others.
DAMAGED = {
    "garbage.png": png(data=b"garbage"),
    "half.png": png(64, 64, level=0)[:6000],
    "header.png": png()[:33],
    "signature.png": b"\x89PNG\r\n\x1a\n",
    "no-size.png": png(declared=(0, 0)),
    "too-few-pixels.png": png(8, 8, declared=(800, 800)),
    "huge.png": png(8, 8, declared=(65000, 65000)),
    "wrong-sum.png": png()[:40] + b"\xff\xff" + png()[42:],
    "ten-bytes.gif": b"GIF89a\x01\0\x01\0",
    "no-frame.gif": GIF[:19] + b";",
    "half.gif": GIF[:-6],
    "header.jpg": JPEG[:20],
    "no-scan.jpg": JPEG[:90],
    "noise.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(range(1, 200)),
    "noise.webp": b"RIFF\x10\0\0\0WEBPVP8 \4\0\0\0abcd",
    "header.webp": WEBP[:16],
    "half.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 1000, 0, 54, 40, 16, 16, 1, 24, 0, 768, 0, 0, 0, 0) + b"\0" * 40,
}
