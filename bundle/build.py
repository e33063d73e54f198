"""Build the executable: `python bundle/build.py dist/kowabunga`.

Two builds of a commit on one Debian release are byte-identical, wherever and whenever they run:
locked wheels, no path or time of the build inside, one order, one mode, one date for all entries.
shiv makes the archive; this adds byte code, the manifest and the launcher, and sorts it anew.
"""

import argparse
import hashlib
import importlib.util
import marshal
import os
import shutil
import subprocess  # noqa: TID251 - a build tool, not the package
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).resolve().parent.parent
LAUNCHER: Final = TOP / "bundle" / "launcher.py"
REQUIREMENTS: Final = TOP / "requirements" / "runtime.txt"
SHEBANG: Final = "/usr/bin/python3 -I"  # isolated: no PYTHONPATH, no modules of the user
SIZE_LIMIT_BYTES: Final = 25_000_000

# Who installed it from where, and for type checkers: nothing that a run needs.
_DROPPED_NAMES: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
_DROPPED_SUFFIXES: Final = frozenset({".pyc", ".pyi", ".c", ".h", ".pyx", ".pxd"})
# Large, and next to nothing of them is ever imported: compiled in memory when it is.
_NO_BYTE_CODE: Final = ("faker/", "pygments/")
# Litestar imports a maker of examples; we ask it for none, and these are all that must be there.
_FAKER_LOCALES: Final = frozenset({"en", "en_US", "en_GB", "la"})
_UNCHECKED_HASH: Final = (1).to_bytes(4, "little")  # PEP 552: the manifest vouches, not the source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets would show in the byte code.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kowabunga-build-") as scratch:
        _build(Path(scratch), output)
    size = output.stat().st_size
    if size > SIZE_LIMIT_BYTES:
        sys.exit(f"{output} has {size} bytes, more than {SIZE_LIMIT_BYTES}")
    sys.stdout.write(f"{output}: {size / 1e6:.1f} MB\n")


def _build(scratch: Path, output: Path) -> None:
    commit, stamp = _commit()
    packages = scratch / "site-packages"
    _install(packages)
    _prune(packages)
    (packages / "appliance" / "core" / "commit.txt").write_text(f"{commit}\n", encoding="ascii")
    tree = {
        path.relative_to(packages).as_posix(): path.read_bytes()
        for path in packages.rglob("*")
        if path.is_file()
    }
    tree |= _byte_code(tree)
    manifest = "".join(
        f"{hashlib.sha256(content).hexdigest()} {name}\n" for name, content in sorted(tree.items())
    ).encode()
    build_id = hashlib.sha256(manifest).hexdigest()

    made_by_shiv = scratch / "shiv"
    _run(
        sys.executable, "-m", "shiv", "--site-packages", packages, "--output-file", made_by_shiv,
        "--entry-point", "appliance.__main__:main", "--build-id", build_id, "--reproducible",
        environment={"SOURCE_DATE_EPOCH": str(stamp)},
    )  # fmt: skip
    entries = {f"site-packages/{name}": content for name, content in tree.items()}
    with zipfile.ZipFile(made_by_shiv) as archive:
        for name in archive.namelist():
            if name == "environment.json" or name.startswith("_bootstrap/"):
                entries[name] = archive.read(name)
    entries["manifest"] = manifest
    launcher = _launcher(commit, build_id)
    entries["__main__.py"] = launcher
    entries |= _byte_code(
        {
            name: content
            for name, content in entries.items()
            if not name.startswith("site-packages/")
        },
        beside=True,
    )
    _write(output, entries, stamp)


def _commit() -> tuple[str, int]:
    """Return the commit and its time; a changed tree says so."""
    log = _run("git", "-C", TOP, "log", "-1", "--abbrev=12", "--format=%h %ct")
    commit, seconds = log.split()
    if _run("git", "-C", TOP, "status", "--porcelain", "--", "appliance", "bundle", "requirements"):
        commit += "-dirty"
    return commit, int(os.environ.get("SOURCE_DATE_EPOCH", seconds))


def _install(packages: Path) -> None:
    pip: list[str | Path] = [
        sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
        "--target", packages, "--no-deps", "--no-compile", "--no-build-isolation", "--use-pep517",
    ]  # fmt: skip
    # pyinotify comes as source only; its build tool is locked with the development requirements.
    _run(*pip, "--require-hashes", "--only-binary", ":all:", "--no-binary", "pyinotify",
         "--requirement", REQUIREMENTS)  # fmt: skip
    _run(*pip, TOP)


def _prune(packages: Path) -> None:
    shutil.rmtree(packages / "bin")  # console scripts; they name this build's interpreter
    for path in packages.rglob("*"):
        if path.name in _DROPPED_NAMES or path.suffix in _DROPPED_SUFFIXES:
            path.unlink()
    for locale in packages.glob("faker/providers/*/*/"):
        if locale.name not in _FAKER_LOCALES:
            shutil.rmtree(locale)


def _byte_code(sources: dict[str, bytes], *, beside: bool = False) -> dict[str, bytes]:
    """Compile in one fixed order; source paths are set anew by the importer."""
    compiled: dict[str, bytes] = {}
    for name, source in sorted(sources.items()):
        if not name.endswith(".py") or name.startswith(_NO_BYTE_CODE):
            continue
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
        header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
        place = f"{name}c" if beside else importlib.util.cache_from_source(name)
        compiled[place] = header + marshal.dumps(code)
    return compiled


def _launcher(commit: str, build_id: str) -> bytes:
    namespace: dict[str, str] = {}
    version = TOP / "appliance" / "core" / "version.py"
    exec(version.read_text(), namespace)  # noqa: S102 - our own constants
    text = LAUNCHER.read_text(encoding="utf-8")
    text = text.replace("@VERSION_LINE@", f"kowabunga {namespace['VERSION']} ({commit})")
    return text.replace("@BUILD_ID@", build_id).encode()


def _write(output: Path, entries: dict[str, bytes], stamp: int) -> None:
    temporary = output.with_name(f".{output.name}.new")
    with temporary.open("wb") as file:
        file.write(f"#!{SHEBANG}\n".encode())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in sorted(entries.items()):
                entry = zipfile.ZipInfo(name, time.gmtime(stamp)[:6])
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # Unix, so that the mode counts
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, content)
    temporary.chmod(0o755)
    temporary.replace(output)


def _run(*argv: str | Path, environment: dict[str, str] | None = None) -> str:
    """Run a tool; its failure is ours, with everything that it said."""
    done = subprocess.run(  # noqa: S603 - literal commands of this file
        [os.fspath(part) for part in argv],
        env=os.environ | (environment or {}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{argv[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
