"""Results as files that other tools read, made from the masks of a session in frame order. Nothing is held whole."""

from service.exports.annotations import coco_json, youtube_vis_json
from service.exports.labelling import cvat_xml, label_studio_json
from service.exports.masks_zip import binary_png_zip, indexed_png_zip
from service.exports.probabilities import probability_zip
from service.exports.types import ExportInfo, Masks

__all__ = [
    "ExportInfo",
    "Masks",
    "binary_png_zip",
    "coco_json",
    "cvat_xml",
    "indexed_png_zip",
    "label_studio_json",
    "probability_zip",
    "youtube_vis_json",
]
