"""Routes that show what a session's references were taken to be: the list, and each one's label map."""

from __future__ import annotations

import io

import anyio.to_thread
import numpy as np
from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.api.services import Services
from service.api.sessions import OwnerDep, ServicesDep, find, refusals
from service.errors import NotFound
from service.masks import encode_png
from service.schemas import Reference, SessionRecord
from service.wording import counted

router = APIRouter(tags=["references"])


class ReferenceDetail(BaseModel):
    """A reference as it was given, and where to see the label map that it became."""

    index: int
    kind: str
    frame_index: int
    object_ids: tuple[int, ...] = Field(description="Empty for `auto` until the worker has found the objects")
    direction: str
    text: str | None
    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float, int], ...]
    label_map: str | None = Field(description="Where the PNG is; None while the worker has not resolved the reference")


class ReferenceList(BaseModel):
    """All references of a session, in the order they came; warnings are the session's."""

    references: tuple[ReferenceDetail, ...]
    warnings: tuple[str, ...]


@router.get("/sessions/{session_id}/references", responses=refusals(404, 410))
async def list_references(services: ServicesDep, owner: OwnerDep, session_id: str) -> ReferenceList:
    """What was given, and what it was taken to be."""
    record = await find(services, owner, session_id)
    details = tuple(_detail(record, index, reference) for index, reference in enumerate(record.references))
    return ReferenceList(references=details, warnings=record.warnings)


@router.get(
    "/sessions/{session_id}/references/{index}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **refusals(404, 410)},
)
async def show_reference(services: ServicesDep, owner: OwnerDep, session_id: str, index: int) -> Response:
    """The label map of one reference as an indexed PNG of the video's size; pixel values are object ids."""
    record = await find(services, owner, session_id)
    if not 0 <= index < len(record.references):
        raise NotFound(f"the session has {counted(len(record.references), 'reference')}; their indices start at 0")
    name = label_map_file(record.references[index])
    if name is None:
        raise NotFound("this reference has not been resolved yet; it is when the session starts to run")
    png = await anyio.to_thread.run_sync(_indexed, services, session_id, name)
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})


def label_map_file(reference: Reference) -> str | None:
    """Name in storage of the label map that a reference is or became."""
    return reference.file if reference.kind == "mask" else reference.label_map_file


def _detail(record: SessionRecord, index: int, reference: Reference) -> ReferenceDetail:
    known = label_map_file(reference) is not None
    return ReferenceDetail(
        index=index,
        kind=reference.kind,
        frame_index=reference.frame_index,
        object_ids=reference.object_ids,
        direction=reference.direction,
        text=reference.text,
        box=reference.box,
        points=reference.points,
        label_map=f"/sessions/{record.id}/references/{index}.png" if known else None,
    )


def _indexed(services: Services, session_id: str, name: str) -> bytes:
    """The stored grey label map with the palette that all of the service's PNGs have."""
    with Image.open(io.BytesIO(services.storage.read(session_id, name)), formats=("PNG",)) as image:
        return encode_png(np.array(image, dtype=np.uint8))
