#!/bin/sh
# Installs covidnet and its model from this folder, without a network: sh install.sh [DIR], by default /opt/covidnet.
# PYTHON=python3.12 names the interpreter, which must be of the version in the file PYTHON.
set -eu
# Under a stricter umask, only root could run what is installed.
umask 022
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-/opt/covidnet}
fail() { echo "install.sh: $1" >&2; exit 1; }

cd "$here"
wanted=$(cat PYTHON)
python=${PYTHON:-$wanted}
command -v "$python" >/dev/null || fail "$python: not found; these wheels are for $wanted: install it, or build the bundle with another Python"
found=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
[ "$found" = "$wanted" ] || fail "PYTHON=$python: is $found, but these wheels are for $wanted"
sha256sum --check --strict --quiet SHA256SUMS || fail "$here: files are damaged or missing; copy the archive again"
# Nothing that is not listed is installed.
listed=$(wc -l <SHA256SUMS)
present=$(find . -type f ! -name SHA256SUMS | wc -l)
[ "$listed" -eq "$present" ] || fail "$here: has files that SHA256SUMS does not list; unpack the archive into an empty folder"
[ ! -e "$target/venv" ] || fail "$target: is installed already; remove it, or give another folder"

mkdir -p "$target"
trap 'rm -rf "$target/venv"' EXIT
trap 'exit 1' HUP INT TERM
echo "installing $(ls wheels | wc -l) packages into $target/venv (takes minutes)"
"$python" -m venv "$target/venv"
pip="$target/venv/bin/python -m pip --disable-pip-version-check install --quiet --no-index --find-links wheels"
$pip --requirement requirements.txt
$pip --no-deps covidnet
cp model.* "$target/"
if [ -d weights ]; then cp -R weights "$target/"; fi
"$target/venv/bin/covidnet" predict --help >/dev/null || fail "covidnet does not start"
trap - EXIT
model=$(ls "$target"/model.*)
echo "installed in $target; try: $target/venv/bin/covidnet predict checkpoint=$model input=FILE_OR_FOLDER out=results"
