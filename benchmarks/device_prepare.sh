#!/bin/sh
# Gather in a folder what has to be copied to a machine with a GPU and no network, besides the repository:
#
#     sh benchmarks/device_prepare.sh PHOTOGRAPHS [FOLDER]
#
# PHOTOGRAPHS is a folder of JPEG files, FOLDER is build/device by default. Wheels are for Python 3.12 on x86-64 Linux;
# they are what a machine set up for PyTorch usually lacks. benchmarks/device.sh uses the folder.
set -eu

photographs=${1:?pass a folder of photographs}
folder=${2:-build/device}
python=${PYTHON:-.venv/bin/python}
cd "$(dirname "$0")/.."

rm -rf "$folder"
mkdir -p "$folder/wheels" "$folder/photographs" "$folder/engine"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/wheels" .
wanted=$("$python" -c '
from importlib.metadata import distributions
names = """pydantic pydantic_core annotated_types typing_inspection typing_extensions cyclopts docstring_parser rich_rst
docutils simplejpeg tomli_w beartype pooch""".split()
found = {each.name.lower().replace("-", "_"): each.version for each in distributions()}
print(*(f"{name}=={found[name]}" for name in names if name in found))')
# shellcheck disable=SC2086
"$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version 3.12 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest "$folder/wheels" $wanted
cp "$photographs"/*.[jJ][pP]* "$folder/photographs/"
cp src/verydeep/engine/*.so "$folder/engine/"
du -sh "$folder"/* "$folder"
