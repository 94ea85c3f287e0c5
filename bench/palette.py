"""The colours of our pictures, light and dark, as variables of CSS. Pure."""

from collections.abc import Mapping

LIGHT = {
    "ground": "#ffffff",
    "text": "#1f2328",
    "faint": "#656d76",
    "line": "#b6bdc5",
    "ours": "#0969da",
    "nginx": "#1a7f37",
    "python": "#9a6700",
    "limit": "#8c959f",
    "sped": "#cf222e",
    "always": "#8250df",
}
DARK = {
    "ground": "#0d1117",
    "text": "#e6edf3",
    "faint": "#8d96a0",
    "line": "#484f58",
    "ours": "#4493f8",
    "nginx": "#3fb950",
    "python": "#d29922",
    "limit": "#6e7681",
    "sped": "#ff7b72",
    "always": "#ab7df8",
}


def _variables(colours: Mapping[str, str]) -> str:
    return "; ".join(f"--{name}: {colour}" for name, colour in colours.items())


STYLE = f"""
  :root {{ {_variables(LIGHT)} }}
  @media (prefers-color-scheme: dark) {{
    :root {{ {_variables(DARK)} }} }}"""
