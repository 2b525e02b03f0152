"""The service with one promise taken out at a time: the tests of faults have to notice."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import file_service
from tests.faults.disks import Kind
from tests.processes import service_environment

DISK = "blobs/disk.py"
FOLDER = "blobs/folder.py"
PUTS = "blobs/puts.py"
LOCAL = "blobs/local.py"
FILES = "core/files.py"
UPLOADS = "core/uploads.py"
UPKEEP = "core/upkeep.py"
ENGINE = "catalogue/engine.py"
QUERIES = "catalogue/queries.py"

_REPOSITORY = Path(file_service.__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One change of the source: `old` becomes `new` in `file`, wherever it is.

    `scenario` should notice; where nothing can, `unseen` says why.
    """

    name: str
    file: str
    old: str
    new: str
    scenario: str
    unseen: str = ""
    kinds: tuple[Kind, ...] = ("ext4", "xfs")  # the disks on which it shows
    is_fast: bool = False

    def plant(self, folder: Path) -> dict[str, str]:
        """Copy the package with this change into `folder`; return what makes a service use it."""
        variables = copy_package(folder)
        path = folder / "file_service" / self.file
        source = path.read_text()
        assert self.old in source, f"{self.file} has changed: this mutant has to follow"
        path.write_text(source.replace(self.old, self.new))
        return variables


def copy_package(folder: Path) -> dict[str, str]:
    """Copy the package into `folder`; return the variables that make a service use the copy."""
    for name in ("file_service", "migrations"):
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_REPOSITORY / name, folder / name, ignore=without)
    variables = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", "import file_service; print(file_service.__file__)"]
    used = subprocess.check_output(command, env=service_environment(**variables), text=True)
    assert Path(used.strip()).is_relative_to(folder), used
    return variables


MUTANTS = [
    # ── what is synced ──
    Mutant(
        "an upload's bytes are not synced",
        LOCAL,
        "            await disk.sync(file)\n        return offset\n",
        "            pass\n        return offset\n",
        "power_after_upload",
        is_fast=True,
    ),
    Mutant(
        "a small upload's bytes are not synced",
        PUTS,
        "    os.fsync(_held(put).fileno())\n",
        "    _held(put)\n",
        "power_after_small_upload",
        is_fast=True,
    ),
    Mutant(
        "the folder of a new blob is not synced",
        DISK,
        "    add_link(stage, blob)\n    fsync_folder(blob.parent)\n",
        "    add_link(stage, blob)\n",
        "power_after_upload",
    ),
    Mutant(
        "the folder of a new small blob is not synced",
        PUTS,
        "    fsync_folder(put.blob.parent)\n",
        "    _held(put)\n",
        "power_after_small_upload",
    ),
    Mutant(
        "the folders of a new store are not synced",
        FOLDER,
        '(folder / "blobs", folder, folder.parent)',
        "(folder, folder.parent)",
        "power_after_start",
        unseen="fsync of a shard commits the journal that its own entry is in, on both systems",
    ),
    Mutant(
        "the folder of a removed blob is not synced",
        DISK,
        "        fsync_folder(path.parent)\n\n\n@in_thread\ndef set_aside",
        "        pass\n\n\n@in_thread\ndef set_aside",
        "power_after_delete",
    ),
    Mutant(
        "the folder of a blob that another removed is not synced",
        DISK,
        "    path.unlink(missing_ok=True)\n    if path.parent.is_dir():\n",
        "    was_there = path.exists()\n    path.unlink(missing_ok=True)\n    if was_there:\n",
        "power_after_recovery",
        kinds=("xfs",),  # on ext4 the fsyncs of a start commit the same journal
    ),
    Mutant(
        "a new store's identity is not synced",
        FOLDER,
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "",
        "power_after_start",
    ),
    Mutant(
        "a new store's folder is not synced",
        FOLDER,
        "        draft.unlink()\n    fsync_folder(folder)\n",
        "        draft.unlink()\n",
        "power_after_claim",
        kinds=("xfs",),  # on ext4 the fsync of the identity commits the same journal
    ),
    Mutant(
        "the folder above a new store is not synced",
        FOLDER,
        '(folder / "blobs", folder, folder.parent)',
        '(folder / "blobs", folder)',
        "power_after_start",
        unseen="the operator made the folder; its entry is in the journal that our fsyncs commit",
    ),
    Mutant(
        "SQLite does not sync at COMMIT",
        ENGINE,
        '"synchronous=FULL"',
        '"synchronous=NORMAL"',
        "power_after_upload_same",
        is_fast=True,
    ),
    # ── the order of things ──
    Mutant(
        "a stage is moved, not linked",
        DISK,
        "os.link(stage, blob)",
        "os.rename(stage, blob)",
        "kill_upload_at_row",
    ),
    Mutant(
        "an upload's row comes before its blob",
        UPLOADS,
        "        for file in self.files:\n            self._committed",
        "        await self._catalogue.add_files(self.files)\n"
        "        for file in self.files:\n            self._committed",
        "kill_upload_at_link",
    ),
    Mutant(
        "a small upload's row comes before its blob",
        UPLOADS,
        "        for file in self.files:\n            self._committed",
        "        await self._catalogue.add_files(self.files)\n"
        "        for file in self.files:\n            self._committed",
        "kill_small_upload_at_link",
    ),
    Mutant(
        "the files of a form come one by one",
        UPLOADS,
        "                await self._store.commit(file.id)\n"
        "        await self._catalogue.add_files(self.files)\n",
        "                await self._store.commit(file.id)\n"
        "            await self._catalogue.add_files([file])\n",
        "kill_form_at_second",
    ),
    Mutant(
        "a delete's blob goes before its row",
        FILES,
        "_delete(self, file_id: str) -> None:\n",
        "_delete(self, file_id: str) -> None:\n        await self._store.delete(file_id)\n",
        "kill_delete_at_row",
        is_fast=True,
    ),
    Mutant(
        "a delete leaves no note",
        QUERIES,
        "            note_removal(connection, file_id)\n",
        "",
        "kill_delete_at_unlink",
    ),
    Mutant(
        "a delete's note goes before its blob",
        FILES,
        "            await self._store.delete(file_id)\n",
        "            await self._catalogue.drop_removals([file_id])\n"
        "            await self._store.delete(file_id)\n",
        "kill_delete_at_unlink",
    ),
    Mutant(
        "a recovery drops the stage before the blob",
        UPKEEP,
        "                else:\n                    await self._store.delete(key)\n",
        "                else:\n                    await self._store.discard(key)\n"
        "                    await self._store.delete(key)\n",
        "kill_recovery_at_unlink",
    ),
    # ── recovery ──
    Mutant(
        "nothing is recovered",
        UPKEEP,
        "        settled = Settled()\n        try:\n            await self._store.tidy()",
        "        settled = Settled()\n        return settled\n"
        "        try:\n            await self._store.tidy()",
        "kill_upload_at_row",
    ),
    Mutant(
        "noted removals are not finished",
        UPKEEP,
        "            await self._finish_removals(settled)\n",
        "",
        "kill_delete_at_unlink",
    ),
    Mutant(
        "a recovery does not ask for the row",
        QUERIES,
        '        fence = {\n            "id": key',
        '        return False\n        fence = {\n            "id": key',
        "kill_upload_at_last",
    ),
    Mutant(
        "a recovery asks for the row, and puts up no fence",
        QUERIES,
        "connection.execute(self._database.insert(file).on_conflict_do_nothing(), fence)\n",
        "pass\n",
        "commit_in_doubt",
    ),
    # ── who may do what ──
    Mutant(
        "a stage is not locked",
        DISK,
        "        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        "gc_beside_upload",
    ),
    Mutant(
        "a lock on a stage that is gone counts",
        DISK,
        "    return _is_at(file, path)\n",
        "    return True\n",
        "gc_beside_upload",
        unseen="it takes a race; the link then fails and the client hears 503, as it may",
    ),
    Mutant(
        "an upload goes into whatever folder is there",
        FOLDER,
        "    check(folder, identity)\n    return _measure_room(folder)\n",
        "    return _measure_room(folder)\n",
        "upload_to_another_store",
    ),
    Mutant(
        "a small upload goes into whatever folder is there",
        PUTS,
        "        self._check()\n",
        "",
        "small_upload_to_another_store",
    ),
    Mutant(
        "a blob that is away counts as removed",
        LOCAL,
        "            await folders.check_identity(self._folder, self._identity)\n"
        "            await disk.unlink_durably(",
        "            await disk.unlink_durably(",
        "delete_without_volume",
    ),
]
