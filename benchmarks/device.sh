#!/bin/sh
# Everything that only a GPU can show, in one command of under eight minutes on an H100 or H200 with 16 cores:
#
#     sh benchmarks/device.sh [FOLDER] [OUT]
#
# FOLDER is what benchmarks/device_prepare.sh gathered (build/device by default), OUT takes the results as JSON and
# the whole output of each part as a log (results by default). Needs Python with torch, Triton, numpy, Pillow,
# scikit-learn, scipy, rich, jaxtyping, safetensors and pytest; timm and torchvision are the peers. A part that fails
# or takes too long is named, and the rest goes on.
set -u

folder=${1:-build/device}
out=${2:-results}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
mkdir -p "$out"
site=$(mktemp -d)
started=$(date +%s)
failed=

"$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$folder"/wheels/*.whl
for library in "$folder"/engine/*.so; do
    [ -e "src/verydeep/engine/${library##*/}" ] || cp "$library" src/verydeep/engine/
done
export PYTHONPATH="$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# part NAME SECONDS COMMAND...: run a part, show the end of what it prints, and note whether it failed.
part() {
    name=$1 seconds=$2
    shift 2
    echo "=== $name (after $(($(date +%s) - started)) s)"
    timeout "$seconds" "$@" >"$out/gpu_$name.log" 2>&1
    status=$?
    tail -n 40 "$out/gpu_$name.log" | cut -c 1-200
    case $status in
    0) ;;
    1) echo "--- $name: something failed or a claim does not hold" && failed="$failed $name" ;;
    124) echo "--- $name: ended after $seconds s; what it had measured is in $out" && failed="$failed $name" ;;
    *) echo "--- $name: failed with exit status $status" && failed="$failed $name" ;;
    esac
}

part correct 150 "$python" -m pytest -v -n 6 --tb=short -p no:cacheprovider -p no:benchmark tests/test_gpu.py \
    tests/engine/test_gpu_kernels.py
part throughput 210 "$python" benchmarks/gpu_throughput.py --json "$out/gpu_throughput.json"
part layers 50 "$python" benchmarks/gpu_layers.py --json "$out/gpu_layers.json"
part files 60 "$python" benchmarks/gpu_files.py "$folder/photographs" --json "$out/gpu_files.json"
part profile 40 "$python" benchmarks/gpu_profile.py --json "$out/gpu_profile.json"
part testing 75 "$python" benchmarks/gpu_testing.py --rounds 1 --json "$out/gpu_testing.json"
rm -rf "$site"
echo "=== all parts took $(($(date +%s) - started)) s;${failed:+ not all right:$failed}"
[ -z "$failed" ]
