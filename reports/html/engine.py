"""HTML engine: render a template as one page that needs no other file, no server and no network."""

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litesort.io import write_text

if TYPE_CHECKING:
    from markupsafe import Markup

HERE = Path(__file__).parent


def write_html(path: Path, template: str, values: Mapping[str, Any], title: str, scripts: Sequence[str] = ()) -> Path:
    """Render `template` with the shared style sheet, write it, and return `path`.

    Jinja escapes every value. The content security policy of the page allows only its own script.

    Args:
        path: HTML file.
        template: Name of a template in this folder that extends `base.html.jinja`.
        values: Variables of the template.
        title: Title of the page.
        scripts: Names of JavaScript files in this folder. They are joined to one script in this order.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": "{:.1%}".format, "pack": packed, "breaks": breakable}
    code = "\n".join((HERE / script).read_text("utf-8") for script in scripts)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    text = environment.get_template(template).render(
        values, title=title, script=code, style=(HERE / "page.css").read_text("utf-8"), digest=digest
    )
    # File names may contain surrogates, which UTF-8 cannot encode.
    return write_text(path, text.encode("utf-8", "backslashreplace").decode())


def breakable(text: str) -> "Markup":
    """Escape a name, and allow line breaks after slashes, underscores and hyphens."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([/_-])", r"\1<wbr>", str(escape(text))))  # entities contain none of these characters


def packed(markup: str) -> str:
    """Compress markup by zlib to base64 text. The browser decompresses it when the run is opened."""
    return base64.b64encode(zlib.compress(str(markup).encode("utf-8", "backslashreplace"), 6)).decode()
