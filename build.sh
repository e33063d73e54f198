#!/usr/bin/env bash
# The project's verbs: ./build.sh VERB [ARGUMENTS]. Each is a function below; each sets up what it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly SYSTEM_PYTHON=/usr/bin/python3 # rados, rbd and libvirt exist only for it
readonly BIN=.venv/bin
readonly STAMP=.venv/.set-up
readonly UV=uv==0.13.9 # writes the lock files; nothing else uses it
readonly SOURCES=(appliance bundle demo docs tests)
readonly SCRIPTS=(build.sh .ci/run demo/guest-image tests/integration/systemd/boot.sh)

usage() {
  cat <<'END'
usage: ./build.sh VERB [ARGUMENTS]

  demo     a node and a virtual machine on it, as root; ARGUMENTS: [up|down|status] [--image URL]
  setup    make .venv as locked (the other verbs do it by themselves)
  fmt      format the code
  lint     formatter, linter, shellcheck
  types    mypy and basedpyright, both strict
  arch     imports point one way
  test     lint, types, arch, then pytest; ARGUMENTS go to pytest, --long first for the long runs
  check    what CI runs: test, with nothing skipped that CI must have
  faults   run the tests that break something, the long ones too, and write docs/faults.md
  bench    benchmarks; ARGUMENTS: [REPORT.json [NAME...]]
  zipapp   dist/kowabunga
  docs     write the generated pages of docs/
  lock     lock the dependencies anew
  clean    remove everything that can be made again

  image and hwtest are not built yet.
END
}

die() {
  printf 'build.sh: %s\n' "$*" >&2
  exit 1
}

say() {
  printf '\n== %s\n' "$*" >&2
}

# Installs the Debian packages whose command or module is missing: as root; else it says what to do.
need_packages() {
  if [[ $EUID -ne 0 ]]; then
    die "missing Debian packages; run: sudo apt-get install $*"
  fi
  say "installing $*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >/dev/null
}

stamp() {
  {
    readlink -f "$SYSTEM_PYTHON"
    "$SYSTEM_PYTHON" --version
    pwd
    cat requirements/develop.txt pyproject.toml
  } | sha256sum
}

setup() {
  local wanted missing=()
  [[ -x $SYSTEM_PYTHON ]] || missing+=(python3)
  "$SYSTEM_PYTHON" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  command -v git >/dev/null || missing+=(git)
  "$SYSTEM_PYTHON" -c 'import libvirt' 2>/dev/null || missing+=(python3-libvirt)
  [[ ${#missing[@]} -eq 0 ]] || need_packages "${missing[@]}" ca-certificates

  wanted=$(stamp)
  if [[ -x $BIN/python && -f $STAMP && $(<"$STAMP") == "$wanted" ]]; then
    return
  fi
  say 'setting up .venv'
  [[ -x $BIN/python ]] || "$SYSTEM_PYTHON" -m venv .venv
  # pyinotify has no wheel: its build tool is locked as well and comes first.
  local pip=("$BIN/python" -m pip --quiet --quiet --disable-pip-version-check install)
  "${pip[@]}" --require-hashes --no-deps --only-binary :all: -r <(locked setuptools)
  "${pip[@]}" --require-hashes --no-deps --no-build-isolation --use-pep517 \
    --only-binary :all: --no-binary pyinotify -r requirements/develop.txt
  "${pip[@]}" --no-deps --no-build-isolation --editable .
  link_libvirt
  printf '%s\n' "$wanted" >"$STAMP"
}

# libvirt's binding is a Debian package, of no other version than the daemon's; nothing else of the
# distribution's Python may be seen from .venv, or a dependency that is not locked would pass.
link_libvirt() {
  local module
  for module in /usr/lib/python3/dist-packages/libvirt{.py,mod.*.so}; do
    [[ ! -e $module ]] || ln -sf "$module" "$("$BIN/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
  done
}

# The lines of one package in the lock file.
locked() {
  awk -v name="$1" '/^[^ #]/ { mine = index($0, name "==") == 1 } mine' requirements/develop.txt
}

fmt() {
  setup
  "$BIN/ruff" format "${SOURCES[@]}"
  "$BIN/ruff" check --fix "${SOURCES[@]}"
}

lint() {
  setup
  say lint
  "$BIN/ruff" format --check --quiet "${SOURCES[@]}"
  "$BIN/ruff" check --quiet "${SOURCES[@]}"
  if command -v shellcheck >/dev/null; then
    shellcheck "${SCRIPTS[@]}"
  elif [[ ${CI:-} == true ]]; then
    die 'shellcheck is missing, and CI must have it'
  else
    echo 'shellcheck is not installed: scripts not checked' >&2
  fi
}

types() {
  setup
  say types
  "$BIN/mypy" "${SOURCES[@]}"
  "$BIN/basedpyright"
}

arch() {
  setup
  say arch
  "$BIN/lint-imports"
}

run_tests() {
  if [[ ${1:-} == --long ]]; then
    export KOWABUNGA_LONG_TESTS=1
    shift
  fi
  lint
  types
  arch
  say tests
  "$BIN/pytest" "$@"
}

check() {
  CI=true run_tests
}

faults() {
  setup
  CI=true KOWABUNGA_LONG_TESTS=1 "$BIN/pytest" --faults docs/faults.md "$@"
}

bench() {
  setup
  "$BIN/python" -m tests.bench "$@"
}

zipapp() {
  setup
  "$BIN/python" bundle/build.py dist/kowabunga
}

docs() {
  setup
  "$BIN/python" docs/generate.py
}

demo() {
  if [[ ${1:-up} != down && ${1:-up} != status ]]; then
    local missing=() package
    for package in $(demo_packages); do
      dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] || need_packages "${missing[@]}"
    setup
    up_to_date dist/kowabunga || zipapp
  fi
  "$SYSTEM_PYTHON" -m demo "$@"
}

# What the demo calls, and what builds the guest's image.
demo_packages() {
  local qemu=qemu-system-x86
  [[ $(uname -m) != aarch64 ]] || qemu='qemu-system-arm qemu-efi-aarch64'
  echo iproute2 nftables openssh-client libvirt-daemon libvirt-daemon-driver-qemu python3-libvirt "$qemu" qemu-utils
  echo dosfstools e2fsprogs fdisk mmdebstrap mtools
}

# Whether nothing that goes into the executable is newer than it.
up_to_date() {
  [[ -x $1 && -z $(find appliance bundle requirements pyproject.toml -newer "$1" -name '*.*' -not -name '*.pyc' -print -quit) ]]
}

lock() {
  setup
  "$BIN/python" -m pip --quiet --disable-pip-version-check install "$UV"
  local compile=("$BIN/uv" pip compile --quiet --generate-hashes --universal --python-version 3.11
    --no-header pyproject.toml)
  "${compile[@]}" -o requirements/runtime.txt
  "${compile[@]}" --group build --group check -o requirements/develop.txt
}

clean() {
  rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
  find . -name __pycache__ -type d -prune -exec rm -rf {} +
}

main() {
  local verb=${1:-help}
  [[ $# -eq 0 ]] || shift
  case $verb in
    setup | demo | fmt | lint | types | arch | check | faults | bench | zipapp | lock | docs | clean) "$verb" "$@" ;;
    test) run_tests "$@" ;;
    help | -h | --help) usage ;;
    image | hwtest) die "$verb is not built yet" ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

main "$@"
