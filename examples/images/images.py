"""Two jobs on pictures in the PPM format: paint one, and make one smaller. Only the standard library."""

from pathlib import Path

from runtime.outcomes import Fail, JobContext, Retry


def paint(path: str, width: int, height: int, ctx: JobContext) -> dict[str, int]:
    """Write a picture whose colours run from corner to corner."""
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            pixels += bytes((255 * x // width, 255 * y // height, 128))
        if y % 64 == 0:
            ctx.progress({"rows": y, "of": height})
    whole = b"P6\n%d %d\n255\n" % (width, height) + pixels
    scratch = Path(path + ".new")
    scratch.write_bytes(whole)
    scratch.replace(path)  # there is never half a picture at *path*
    return {"bytes": len(whole)}


def shrink(source: str, target: str, factor: int, ctx: JobContext) -> dict[str, int]:
    """Make a picture smaller by a whole *factor*: each new pixel is the mean of a square of old ones."""
    if factor < 1:
        raise Fail("factor must be 1 or more", code="images.factor")  # no other attempt would help
    if not Path(source).exists():
        raise Retry(after=0.5, message=f"{source} is not there yet")
    width, height, pixels = read(Path(source))
    ctx.log(f"{source} has {width} x {height} pixels")
    rows = []
    for y in range(height // factor):
        rows.append(shrunk_row(pixels, width, y, factor))
        ctx.progress({"rows": y + 1, "of": height // factor})
    head = b"P6\n%d %d\n255\n" % (width // factor, height // factor)
    Path(target).write_bytes(head + b"".join(rows))  # writing it a second time does no harm
    return {"width": width // factor, "height": height // factor}


def read(path: Path) -> tuple[int, int, bytes]:
    """Return width, height and pixels of a picture as `paint` writes it."""
    parts = path.read_bytes().split(b"\n", 3)
    if len(parts) != 4 or parts[0] != b"P6" or parts[2] != b"255":
        raise Fail(f"{path} is no PPM picture", code="images.format")
    width, height = map(int, parts[1].split())
    return width, height, parts[3]


def shrunk_row(pixels: bytes, width: int, y: int, factor: int) -> bytes:
    """Return row *y* of the smaller picture."""
    row = bytearray()
    lines = [pixels[line * width * 3 : (line + 1) * width * 3] for line in range(y * factor, (y + 1) * factor)]
    for x in range(width // factor):
        for colour in range(3):
            start = x * factor * 3 + colour
            row.append(sum(sum(line[start : start + factor * 3 : 3]) for line in lines) // factor**2)
    return bytes(row)
