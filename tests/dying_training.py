"""A training that kills itself at the step that it is given, in a process without other threads:
what is forked beside the threads of other tests may wait for a lock that nobody holds any more.
"""

import multiprocessing
import os
import pathlib
import signal

from pipeline.learn.train.job import TrainJob
from pipeline.learn.train.run import train_job

RENAME = pathlib.Path.rename
IMPORTED_ONCE = [
    "torch",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.auto.modeling_auto",
    "pipeline.models.torch.classifier",
    "dying_training",
]


def dies_at(event: int):
    """Kills this process at its so many-th step that somebody could notice: a line said, a file
    renamed."""
    left = event

    def count(*_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def rename(path, target):
        count()
        done = RENAME(path, target)
        count()
        return done

    pathlib.Path.rename = rename
    return count


def _train(wanted: TrainJob, event: int) -> None:
    train_job(wanted, command="c", say=dies_at(event))


def comes_to_its_end(wanted: TrainJob, event: int) -> bool:
    """Trains in a process that dies at a step; whether the training ended before it."""
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(IMPORTED_ONCE)
    child = fresh.Process(target=_train, args=(wanted, event))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0
