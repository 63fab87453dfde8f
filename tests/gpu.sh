#!/bin/sh
# Measure mow_nb on a bare Linux machine: Python 3.12, PyTorch and the usual scientific packages, no network, nothing of ours installed.
#
#   tests/gpu.sh wheels    where there is a network: fetch the few packages such a machine lacks (4 MB) into $WHEELS (default .wheels)
#   tests/gpu.sh           on the machine: unpack them, run `mow bench`, compare updates eager, captured and compiled (chapter 81), train
#                          for a moment, and write $OUT/gpu.txt (default: here); about eight minutes on a card
#
# PYTHON names the interpreter, FOR the version of Python that the wheels are for (default 3.12). BENCH (lines: a preset with options),
# COMPARE (presets) and TRAIN (a preset with options) replace what is run, such as BENCH=toy COMPARE=toy TRAIN=toy.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} WHEELS=${WHEELS:-.wheels} OUT=${OUT:-.} FOR=${FOR:-3.12}
BENCH=${BENCH:-"storm
atari26"}
COMPARE=${COMPARE:-storm atari26}
TRAIN=${TRAIN:-"storm --train.env_steps 800 --train.prefill 300 --train.log_every 100 --eval.episodes 1 --eval.max_steps 500"}

if [ "${1:-run}" = wheels ]; then
  for p in gymnasium ale-py farama-notifications cloudpickle tyro docstring-parser typeguard tomli-w; do
    # the tested version, as constraints.txt has it
    pin=$(sed 's/_/-/g' constraints.txt | grep -i "^$p==") || { echo "constraints.txt does not name $p" >&2; exit 1; }
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --implementation cp --python-version "$FOR" \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$WHEELS" "$pin"
  done
  ls -s "$WHEELS"
  exit
fi

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$PYTHON" -m pip install -q --no-index --no-deps --no-compile --disable-pip-version-check --target "$site/packages" "$WHEELS"/*.whl
export PYTHONPATH="$PWD:$site/packages" PYTHONUNBUFFERED=1 TQDM_DISABLE=1
mow() { "$PYTHON" -c 'import sys; from mow_nb.tools.cli import main; sys.exit(main(sys.argv[1:]))' "$@"; }
compare() { "$PYTHON" -c 'import sys; from mow_nb.tools.card import compare, page; from mow_nb.store.presets import preset; print(page(compare(preset(sys.argv[1]))))' "$1"; }
# one failure does not hide the other figures, but it is the script's exit code
failed=0
part() { title=$1; shift; printf '\n## %s\n\n' "$title"; start=$(date +%s); "$@" 2>&1 || { echo "exit code $?"; failed=1; }; echo "($(($(date +%s) - start)) s in all)"; }

versions() { "$PYTHON" - <<'EOF'
import platform, sys, torch
from importlib.metadata import PackageNotFoundError, version
print('Python', platform.python_version(), platform.platform())
for name in 'torch numpy einops safetensors gymnasium ale-py opencv-python-headless scikit-learn tyro triton'.split():
    try: print(name, version(name))
    except PackageNotFoundError: print(name, '-')
card = torch.cuda.is_available()
print('card:', torch.cuda.get_device_name() if card else 'none', torch.version.cuda or '', 'bfloat16' if card and torch.cuda.is_bf16_supported() else '')
strangers = {'nbdev', 'fastcore', 'IPython'} & set(sys.modules)
assert not strangers, strangers
EOF
}

{
  echo "# mow_nb, $(date -u '+%Y-%m-%d %H:%M') UTC"
  part versions versions
  echo "$BENCH" > "$site/bench"
  while read -r words; do part "mow bench $words" mow bench $words; done < "$site/bench"
  for name in $COMPARE; do part "eager, captured, compiled: $name" compare "$name"; done
  part "mow train $TRAIN" mow train $TRAIN --name gpu --root "$site/runs"
  printf '\n## its metrics\n\n'
  cat "$site/runs/gpu/metrics.jsonl" || failed=1
  [ $failed = 0 ] || { echo 'SOMETHING FAILED: see above'; touch "$site/failed"; }
} > "$OUT/gpu.txt"
cat "$OUT/gpu.txt"
[ ! -e "$site/failed" ]
