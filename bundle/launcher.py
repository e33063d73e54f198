"""`__main__` of the executable: runs before anything is unpacked or imported from the bundle.

It answers `--version` at once, finds a private place to unpack to, proves that what was unpacked
is what was built, and only then hands over to shiv's bootstrap. Standard library only, imported
where used: every command pays for this module.

What is proved: each module and extension when it is imported, against the digests in this archive;
the whole tree and the whole archive when a node starts to `serve`. That finds decay and
tampering by others; nobody can protect a process from its own user.
"""

import sys

VERSION_LINE = "@VERSION_LINE@"
BUILD_ID = "@BUILD_ID@"
MANIFEST = "manifest"
FULLY_CHECKED = ("serve",)
DAMAGED = 6  # exit code: something that this command depends on cannot be used


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(VERSION_LINE + "\n")
        return
    import os

    try:
        root = _private_root()
        os.environ["SHIV_ROOT"] = root
        # Would unpack over a tree that others run from.
        os.environ.pop("SHIV_FORCE_EXTRACT", None)
        tree = _hold_unpacked(root)
    except (OSError, ValueError) as refused:
        sys.stderr.write(f"kowabunga: {refused}\n")
        sys.exit(DAMAGED)
    _verify_imports(f"{tree}/site-packages")
    import _bootstrap  # type: ignore[import-not-found]

    _bootstrap.bootstrap()


def _private_root() -> str:
    """Return the directory to unpack below: ours, and writable by nobody else."""
    from os import environ, geteuid, makedirs, stat

    if "SHIV_ROOT" in environ:
        root = environ["SHIV_ROOT"]
    elif geteuid() == 0:
        root = "/var/lib/kowabunga/bundle"
    else:
        home = environ.get("HOME", "/nonexistent")
        root = environ.get("XDG_CACHE_HOME", f"{home}/.cache") + "/kowabunga"
    try:
        makedirs(root, mode=0o700, exist_ok=True)
    except OSError as failed:
        raise OSError(
            f"cannot make {root} to unpack to: {failed.strerror}; "
            "name a writable directory in SHIV_ROOT"
        ) from failed
    found = stat(root)
    if found.st_uid not in {geteuid(), 0} or found.st_mode & 0o022:
        raise PermissionError(
            f"{root} can be written by others (owner {found.st_uid}, "
            f"mode {found.st_mode & 0o7777:04o}): it must not hold the program; "
            f"run: rm -rf {root}"
        )
    return root


def _hold_unpacked(root: str) -> str:
    """Return the unpacked tree, made when missing, locked against removal while we live."""
    import fcntl
    import os

    # The name that shiv gives it: file name of the archive, then the build.
    name = f"{os.path.basename(os.path.realpath(sys.argv[0]))}_{BUILD_ID}"
    tree = f"{root}/{name}"
    while True:
        try:
            handle = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            _unpack(root, tree)
            continue
        # Held until the process ends: `_remove_unused` of a newer build keeps off.
        fcntl.flock(handle, fcntl.LOCK_SH)
        if os.path.exists(tree) and os.path.samestat(os.fstat(handle), os.stat(tree)):
            break
        os.close(handle)
    if sys.argv[1:2] and sys.argv[1] in FULLY_CHECKED:
        damage = _find_damage(tree)
        if damage:
            sys.stderr.write(f"kowabunga: {damage}; unpacking again\n")
            _discard(tree)
            os.close(handle)
            return _hold_unpacked(root)
    return tree


def _unpack(root: str, tree: str) -> None:
    """Unpack beside the tree and rename, so that a tree is whole or not there.

    Not synced: what a power cut leaves damaged, the next `serve` finds and unpacks again.
    """
    import errno
    import fcntl
    import os
    from zipfile import BadZipFile, ZipFile
    from zlib import error

    # Drawn, not our process id: in a container each start has the same, and may have crashed here.
    temporary = f"{tree}.{os.urandom(8).hex()}.tmp"
    os.mkdir(temporary, mode=0o700)
    try:
        handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # taken for a leftover: the caller tries again
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        if not os.path.exists(temporary):
            return
        others = os.umask(0o022)
        with ZipFile(sys.argv[0]) as archive:
            names = [name for name in archive.namelist() if name.startswith("site-packages/")]
            archive.extractall(temporary, names)
        os.umask(others)
        try:
            os.rename(temporary, tree)
        except OSError as taken:
            # Another start of the same build was quicker; ours goes as unused.
            if taken.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
    except (BadZipFile, error) as damaged:
        raise ValueError(f"{sys.argv[0]} is damaged ({damaged}); install it again") from damaged
    finally:
        os.close(handle)
    _remove_unused(root, tree)


def _remove_unused(root: str, tree: str) -> None:
    """Remove what other builds, or crashed starts, unpacked; not what a process still runs from."""
    import fcntl
    import os

    for entry in os.scandir(root):
        if not entry.is_dir(follow_symlinks=False) or entry.path == tree:
            continue
        try:
            handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _discard(entry.path)
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            os.close(handle)


def _discard(tree: str) -> None:
    """Rename first: whoever opens the tree finds it whole or not at all."""
    import os
    import shutil

    gone = f"{tree}.{os.urandom(8).hex()}.gone"
    os.rename(tree, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _digests() -> "dict[str, str]":
    """Return the SHA-256 of each file of the tree, by its path inside `site-packages`."""
    from zipimport import zipimporter

    text = zipimporter(sys.argv[0]).get_data(MANIFEST).decode()
    # Each line: 64 hex digits, a space, the path.
    return {line[65:]: line[:64] for line in text.splitlines()}


def _find_damage(tree: str) -> "str | None":
    """Read every byte of the archive and of the tree; say what is wrong with the tree.

    Raises:
        ValueError: the archive itself is damaged: nothing can be made of it.
    """
    import os
    from hashlib import sha256
    from zipfile import BadZipFile, ZipFile
    from zlib import error

    try:
        with ZipFile(sys.argv[0]) as archive:
            bad = archive.testzip()
    except (BadZipFile, error) as damaged:
        bad = str(damaged)
    if bad:
        raise ValueError(f"{sys.argv[0]} is damaged ({bad}); install it again")
    wanted = _digests()
    packages = f"{tree}/site-packages"
    for folder, _, files in os.walk(packages):
        for file in files:
            path = f"{folder}/{file}"
            with open(path, "rb") as content:
                digest = sha256(content.read()).hexdigest()
            if wanted.pop(path[len(packages) + 1 :], None) != digest:
                return f"{path} is not what was built"
    return f"{packages}/{next(iter(wanted))} is missing" if wanted else None


def _verify_imports(packages: str) -> None:
    """Let nothing be imported from the tree that differs from what was built."""
    import os
    from hashlib import sha256
    from importlib.machinery import (
        EXTENSION_SUFFIXES,
        ExtensionFileLoader,
        FileFinder,
        ModuleSpec,
        SourceFileLoader,
    )
    from types import ModuleType

    wanted = _digests()

    def check(path: str, content: bytes) -> None:
        if wanted.get(path[len(packages) + 1 :]) != sha256(content).hexdigest():
            sys.stderr.write(
                f"kowabunga: {path} is not what was built; "
                f"run: rm -rf {packages[: -len('/site-packages')]}\n"
            )
            sys.stderr.flush()
            os._exit(DAMAGED)  # an exception could be caught by whoever imports

    class Source(SourceFileLoader):
        def get_data(self, path: str) -> bytes:
            content = super().get_data(path)
            check(path, content)
            return content

    class Extension(ExtensionFileLoader):
        def create_module(self, spec: ModuleSpec) -> ModuleType:
            check(self.path, self.get_data(self.path))
            return super().create_module(spec)

    def finder(path: str) -> FileFinder:
        if path != packages and not path.startswith(packages + "/"):
            raise ImportError(path)
        return FileFinder(path, (Extension, EXTENSION_SUFFIXES), (Source, [".py"]))

    sys.path_hooks.insert(0, finder)
    # Byte code comes with the bundle where it matters; none is added that nobody vouches for.
    sys.dont_write_bytecode = True


if __name__ == "__main__":
    main()
