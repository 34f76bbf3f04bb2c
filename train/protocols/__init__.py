"""TODO door of train/protocols."""

from .crosstask import (
    CrossTaskTask,
    StepLabels,
    read_crosstask_annotation,
    read_crosstask_tasks,
    read_crosstask_videos,
    read_step_set,
)

__all__ = [
    "CrossTaskTask",
    "StepLabels",
    "read_crosstask_annotation",
    "read_crosstask_tasks",
    "read_crosstask_videos",
    "read_step_set",
]
