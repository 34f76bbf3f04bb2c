"""Published protocols and data sets, one file each: what their files hold, and how they are read."""

from .crosstask import (
    CrossTaskTask,
    StepLabels,
    read_crosstask_annotation,
    read_crosstask_tasks,
    read_crosstask_videos,
    read_step_set,
)
from .published import VIDEO_KEYS, PublishedClip, PublishedClips, read_published_clips

__all__ = [
    "VIDEO_KEYS",
    "CrossTaskTask",
    "PublishedClip",
    "PublishedClips",
    "StepLabels",
    "read_crosstask_annotation",
    "read_crosstask_tasks",
    "read_crosstask_videos",
    "read_published_clips",
    "read_step_set",
]
