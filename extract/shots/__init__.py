"""Detectors of shots: a family of backbones whose rows say where a video is cut."""

from . import detectors

__all__ = ["detectors"]
