"""The theme's icons, as few as the pages use.

The theme sends the whole of Font Awesome with every page: 1.5 MB of script, which draws each icon a second time, and
three fonts of some thousand icons. The pages show a dozen. Here the script goes, and fonts and style sheet keep what is
used.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

__all__ = ["slim_icons"]

_LOADED = re.compile(
    r'\s*(?:<script\b[^>]*fontawesome[^>]*></script>|<link\b(?=[^>]*rel="preload")[^>]*fontawesome[^>]*>)'
)
_CODE = re.compile(r'((?:\.fa-[\w-]+:{1,2}before,?)+)\{content:"\\([0-9a-f]+)"\}')
#: Class of an icon → the family's file and weight.
_FAMILIES = {"fa-solid": ("solid-900", 900), "fa-regular": ("regular-400", 400), "fa-brands": ("brands-400", 400)}
_SHORT = {"fas": "fa-solid", "far": "fa-regular", "fab": "fa-brands", "fa": "fa-solid"}


def slim_icons(site: Path, texts: dict[Path, str]) -> dict[Path, str]:
    """Cut Font Awesome down to what a site uses.

    Args:
        site: the folder of the site; its style sheet and fonts of Font Awesome are replaced.
        texts: the HTML of its pages.

    Returns:
        the HTML without the script and without the order to load the fonts beforehand.

    Raises:
        ValueError: a page uses an icon that Font Awesome does not have.
    """
    sheets = list(site.glob("_static/vendor/fontawesome/*/css/all.min.css"))
    if not sheets:
        return texts
    (sheet,) = sheets
    codes = {
        name: code
        for names, code in _CODE.findall(sheet.read_text(encoding="utf-8"))
        for name in re.findall(r"\.(fa-[\w-]+):", names)
    }
    used = _used([*texts.values(), *(file.read_text(encoding="utf-8") for file in site.glob("_static/scripts/*.js"))])
    missing = sorted(icon for icons in used.values() for icon in icons if icon not in codes)
    if missing:
        raise ValueError(f"pages use icons that Font Awesome does not have: {', '.join(missing)}")
    fonts, rules = sheet.parents[1] / "webfonts", [_BASE]
    for family, icons in sorted(used.items()):
        file, weight = _FAMILIES[family]
        name = f"kexue-{file}.woff"
        _subset(fonts / f"fa-{file}.ttf", [int(codes[icon], 16) for icon in icons], fonts / name)
        rules.append(_FAMILY.format(family=family, short=_short(family), weight=weight, file=name))
        rules += [f'.{icon}::before{{content:"\\{codes[icon]}"}}' for icon in sorted(icons)]
    sheet.write_text("\n".join(rules) + "\n", encoding="utf-8")
    for left in [*fonts.glob("fa-*"), *sheet.parent.glob("*.css")]:
        if left != sheet:
            left.unlink()
    shutil.rmtree(sheet.parents[1] / "js", ignore_errors=True)
    return {page: _LOADED.sub("", text) for page, text in texts.items()}


def _used(texts: list[str]) -> dict[str, set[str]]:
    """The icons that texts name, by family."""
    used: dict[str, set[str]] = {}
    for text in texts:
        for classes in re.findall(r"""["']([^"'<>]*\bfa-[^"'<>]*)["']""", text):
            names = classes.split()
            families = [_SHORT.get(name, name) for name in names if _SHORT.get(name, name) in _FAMILIES]
            icons = {name for name in names if name.startswith("fa-") and name not in _FAMILIES and name not in _SIZES}
            if families and icons:
                used.setdefault(families[0], set()).update(icons)
    return used


def _short(family: str) -> str:
    return next(short for short, full in _SHORT.items() if full == family)


def _subset(font: Path, codes: list[int], target: Path) -> None:
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=[], name_IDs=[], notdef_outline=True)
    opened = subset.load_font(str(font), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(opened)
    subset.save_font(opened, str(target), options)


_SIZES = {"fa-lg", "fa-fw", "fa-sm", "fa-xs", "fa-xl", "fa-2x"}
_BASE = """/* Font Awesome Free 6, reduced to the icons of these pages. Icons: CC BY 4.0, fonts: SIL OFL 1.1. */
.fa,.fas,.far,.fab,.fa-solid,.fa-regular,.fa-brands{display:inline-block;font-style:normal;font-variant:normal;\
line-height:1;text-rendering:auto;-webkit-font-smoothing:antialiased}
.fa-lg{font-size:1.25em;line-height:.05em;vertical-align:-.075em}
.fa-xl{font-size:1.5em;line-height:.0417em;vertical-align:-.125em}
.fa-sm{font-size:.875em}.fa-xs{font-size:.75em}.fa-2x{font-size:2em}.fa-fw{text-align:center;width:1.25em}"""
_FAMILY = """@font-face{{font-family:"kexue {family}";font-display:block;src:url(../webfonts/{file}) format("woff")}}
.{family},.{short}{{font-family:"kexue {family}";font-weight:{weight}}}"""
