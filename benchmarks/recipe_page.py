"""Write what `compress recipe` prints into docs/recipe.md.

python benchmarks/recipe_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

from compressor.recipe import Recipe
from compressor.recipe.listing import listed

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"
BLOCK = re.compile(r"(?<=^```toml\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def renewed(page: str) -> str:
    """The page with the recipe of today in its only block of TOML."""
    return BLOCK.sub(lambda _: listed(Recipe()), page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
