"""The options that name references, for every command that takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Masks = Annotated[
    list[Path] | None,
    typer.Option("--mask", exists=True, dir_okay=False, help="PNG of that frame's object ids; several are binary."),
]
Texts = Annotated[
    list[str] | None, typer.Option("--text", help="An object in words; this and the others may be repeated.")
]
Boxes = Annotated[list[str] | None, typer.Option("--box", help="x,y,width,height around an object.")]
Points = Annotated[list[str] | None, typer.Option("--point", help="x,y on an object.")]
Exemplars = Annotated[
    list[Path] | None,
    typer.Option("--exemplar", exists=True, dir_okay=False, help="A picture of an object; with --exemplar-mask."),
]
ExemplarMasks = Annotated[
    list[Path] | None,
    typer.Option("--exemplar-mask", exists=True, dir_okay=False, help="PNG that marks the object in its exemplar."),
]
