"""Saves the checkpoints of a run, by default in a thread while the training continues."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dist_train.checkpoint.serialization import encode, list_not_finite, shorten, weights_sha256
from dist_train.checkpoint.snapshot import copy_to_host, take_snapshot
from dist_train.checkpoint.store import Store, explain_unwritten
from dist_train.errors import UnreadableError
from dist_train.execution.openmp import use_one_thread

_log = logging.getLogger(__name__)


class Saver:
    """Writes a run's checkpoints, by default in a thread while the training continues; a context manager.

    If the disk fails, a warning is logged and the run continues with the checkpoints saved before. Any other error of a
    save is raised by the next call. Only rank 0 saves.
    """

    def __init__(
        self,
        target: Store,
        *,
        keep_last: int,
        asynchronous: bool,
        check: Callable[[], None] = lambda: None,
        saved: Callable[[int], None] = lambda _: None,
    ) -> None:
        """
        Args:
            keep_last: number of the newest checkpoints to keep.
            check: called right before a checkpoint gets its name; raises if another process has taken over the run.
            saved: called with the step of each checkpoint that was saved, in the thread.
        """
        self.last_failed: str | None = None
        """Why the last finished save failed; None if it succeeded."""
        self._links_failed: str | None = None
        self._links: dict[str, int] = {}
        self._store, self._keep_last, self._check, self._saved = target, keep_last, check, saved
        self._thread = ThreadPoolExecutor(1, "checkpoint", use_one_thread) if asynchronous else None
        self._running: Future[None] | None = None

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or would be."""
        return self._store.path(step)

    def repair(self, best_step: int | None) -> None:
        """Finish what a crash after a save interrupted: change the links, and remove old checkpoints."""
        self._try(lambda: self._store.repair_links(best_step), "links can't be repaired")
        self._try(lambda: self._store.prune(self._keep_last), "old checkpoints can't be removed")

    def save(self, step: int, files: Mapping[str, Mapping[str, Any]], link: str | None = None) -> None:
        """Save the checkpoint of `step`, and point the links `latest` and `link` at it.

        Args:
            files: content of each file by its name: plain types, and tensors on any device that no longer change.
        """
        self.wait()
        if self._thread:
            self._running = self._thread.submit(self._save, step, files, link)
        else:
            self._save(step, files, link)

    def hash_weights(self, state_dict: Mapping[str, Any]) -> Future[str]:
        """Return the SHA-256 of the current weights, which the thread computes after its earlier work."""
        snapshot = take_snapshot(dict(state_dict))
        if self._thread:
            return self._thread.submit(_hash, snapshot)
        done: Future[str] = Future()
        done.set_result(_hash(snapshot))
        return done

    def wait(self) -> None:
        """Wait until the current save is on disk; raise its error."""
        running, self._running = self._running, None
        if running:
            running.result()

    def finish(self) -> str | None:
        """Wait for the last save; return why it failed, None if everything is on disk."""
        self.wait()
        if self.last_failed:
            return f"{self.last_failed}. It was the last one; the same command trains again what it held"
        return self._links_failed

    def close(self) -> None:
        """Wait for the last save, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread:
                self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as later:
            if error is None:
                raise
            _log.warning("the last save failed too: %s", later)  # the run ends by the earlier error

    def _save(self, step: int, files: Mapping[str, Mapping[str, Any]], link: str | None) -> None:
        self.last_failed = self._write(step, files)
        if self.last_failed:
            _log.warning("%s. The run continues; earlier checkpoints stay", self.last_failed)
            return
        self._saved(step)
        # Errors from here on do not fail the save. A link that could not be changed is tried again by the next save.
        self._links |= {"latest": step} | ({link: step} if link else {})
        self._links_failed = self._try(lambda: self._store.point(self._links), "the links can't be changed")
        self._try(lambda: self._store.prune(self._keep_last), "old checkpoints can't be removed")

    def _try(self, change: Callable[[], None], fault: str) -> str | None:
        """Make a change; return and log why it failed, None if it succeeded."""
        try:
            change()
        except OSError as error:
            reason = f"{self._store.directory}: {fault}: {explain_unwritten(error)}"
            _log.warning("%s", reason)
            return reason
        return None

    def _write(self, step: int, files: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Write a checkpoint; return why it was not written, None if it was."""
        path = self._store.path(step)
        files = copy_to_host(dict(files))
        for name in set(files) - {"training.pt"}:
            if broken := list_not_finite(files[name]):
                return f"{path}: was not saved: {name} has values that are not finite: {shorten(broken)}"
        encoded = {name: encode(content) for name, content in files.items()}
        try:
            self._store.save(step, encoded, weights_sha256(files["model.pt"]), self._check)
        except OSError as error:
            return f"{path}: was not saved: {explain_unwritten(error)}"
        except UnreadableError as error:
            return f"{path}: was not saved again: {error}"
        return None


def _hash(snapshot: dict[str, Any]) -> str:
    return weights_sha256(copy_to_host(snapshot))
