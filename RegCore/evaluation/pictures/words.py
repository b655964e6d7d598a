"""Words in pictures: one font, one colour, along a line or upwards along an edge."""

from PIL import Image, ImageDraw, ImageFont

BACKGROUND, TEXT = (16, 18, 24), (240, 242, 246)
Colour = tuple[int, int, int]
Place = tuple[float, float]


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The built-in font, `size` pixels high."""
    return ImageFont.load_default(size)


def width_of(text: str, size: float) -> float:
    """Pixels that a line of text is wide."""
    return font(size).getlength(text)


def write(
    picture: Image.Image,
    place: Place,
    text: str,
    size: float = 17,
    colour: Colour = TEXT,
    anchor: str = "mm",
    outline: bool = False,
) -> float:
    """Write a line of text; return the pixel at which it ends.

    Args:
        picture: written into.
        place: (x, y) pixels of the anchor.
        anchor: where that is in the text, as Pillow names it: "mm" is the middle, "lm" the left.
        outline: with a black edge, so that it can be read on any ground.
    """
    draw, edge = ImageDraw.Draw(picture), 2 if outline else 0
    draw.text(
        place, text, fill=colour, font=font(size), anchor=anchor, stroke_width=edge, stroke_fill=(0, 0, 0)
    )
    return draw.textbbox(place, text, font=font(size), anchor=anchor)[2]


def write_upwards(picture: Image.Image, middle: Place, text: str, size: float = 17) -> None:
    """Write a line of text that runs upwards, the name of a row, about a point (x, y)."""
    strip = Image.new("RGB", (int(width_of(text, size)) + 8, int(1.5 * size)), BACKGROUND)
    write(strip, (strip.width / 2, strip.height / 2), text, size)
    strip = strip.rotate(90, expand=True)
    picture.paste(strip, (int(middle[0]) - strip.width // 2, int(middle[1]) - strip.height // 2))


def fitted(text: str, size: float, width: float) -> str:
    """The text, cut short with dots if it is wider than so many pixels."""
    while text and width_of(text, size) > width:
        text = text[:-4] + "..." if len(text) > 4 else ""
    return text
