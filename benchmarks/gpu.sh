#!/usr/bin/env bash
# Speeds and equality checks on one GPU, in under 4 minutes. What each script prints is kept in $OUT (default: /tmp/certbench-gpu).
#
#     benchmarks/gpu.sh                     # everything
#     PYTHON=python3.12 benchmarks/gpu.sh   # with another interpreter
set -u
cd "$(dirname "$0")/.."
out=${OUT:-/tmp/certbench-gpu}
python=${PYTHON:-python}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0
part() { # name, seconds it may take, command
    local name=$1 limit=$2 begun=$SECONDS
    shift 2
    if timeout "$limit" "$python" "$@" >"$out/$name.txt" 2>"$out/$name.err"; then
        echo "== $name: $((SECONDS - begun)) s"
    else
        echo "== $name: FAILED with exit code $? after $((SECONDS - begun)) s"
        tail -n 5 "$out/$name.err"
        failed=1
    fi
    cat "$out/$name.txt"
}
part equality 40 benchmarks/equality.py
part training 45 benchmarks/train.py --device cuda --rounds 2
part certification 100 benchmarks/certify.py --device cuda --check --rounds 1 --network lenet --network cifar_resnet110
part resnet50 50 benchmarks/certify.py --device cuda --rounds 1 --network resnet50
exit $failed
